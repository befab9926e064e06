"""Exact gradients of single units, whatever the stack trains.

`Watcher` sees where the rows meet a trainable weight and asks the rule of that function (`rules/`, one file each);
`Tape` keeps what the rules find; `methods` chooses between that, `vmap` and a loop over single rows.
"""

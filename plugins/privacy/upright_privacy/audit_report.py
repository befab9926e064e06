"""What the audit says in the report."""

from __future__ import annotations

from upright import Metric, Run, Section
from upright.objects import Table, Text

ADVERSARY = (
    "The one who guesses sees the noised gradient of every update, knows the settings, and chose the canaries' gradients: one "
    "coordinate each, of a vector that no other row touches, as long as the clipping norm allows. That is the strongest "
    "test of the noise, the clipping norm, the sampling and their sum over the updates. It does not test the gradients of "
    "the model's own parameters; the comparison with the one-record loop does."
)


def canary_section(found: dict[str, Metric], confidence: float, claimed: float, delta: float, included: int) -> Section:
    """The bounds beside the claim, with their power."""
    right = found["guessed_right"]
    rows = [
        ("claimed epsilon", claimed),
        ("delta", delta),
        ("lower bound on epsilon, whatever the mechanism (Steinke et al., 2023)", found["epsilon_lower"].value),
        ("largest such bound that these canaries could show", found["epsilon_lower_largest"].value),
        (
            "lower bound on epsilon, if all noise is Gaussian as in the ledger",
            found["epsilon_lower_gaussian"].value,
        ),
        ("confidence that both bounds hold", confidence),
        ("canaries, of which in train", f"{right.n}, {included}"),
        ("share of canaries guessed right, 95 % interval", f"{right.value:.3f} [{right.low:.3f}, {right.high:.3f}]"),
        ("share that the ledger's noise allows at the most", found["guessed_right_allowed"].value),
        ("chance of so many or more, if the ledger is true", found["p_value"].value),
        ("chance to notice half the noise, or twice the clipping norm", found["power"].value),
    ]
    meaning = (
        "A lower bound over the claimed epsilon refutes the claim. One below it proves nothing more than that this attack "
        "found no fault; how much that says is in the last line. Canaries are nobody's: what is shown here of them is "
        "no training record's. Each is a unit of privacy, sampled and charged like any other, and from none does the "
        "model learn."
    )
    return Section("Privacy audit by canaries", [Text(meaning), Table(["what", "value"], rows), Text(ADVERSARY)])


def attack_section(found: dict[str, Metric], run: Run, held: str | None) -> Section:
    """How well training rows are told from held-out ones."""
    names = {
        "attack_auc": "AUC, calibrated (1/2: no better than chance)",
        "attack_tpr_at_1_percent_fpr": "true positive rate at 1 % false positives, calibrated",
        "loss_attack_auc": "AUC of the loss alone",
        "loss_attack_tpr_at_1_percent_fpr": "true positive rate at 1 % false positives of the loss alone",
    }
    rows = [
        (name, f"{found[key].value:.3f}", f"[{found[key].low:.3f}, {found[key].high:.3f}]", found[key].n)
        for key, name in names.items()
        if key in found
    ]
    if not rows:
        return Section("Membership attack", [Text("Not tried: there are too few rows, or none that were held out.")])
    how = (
        f"As many rows of train as of {held} (not trained on) are told apart by the tuned model's confidence in their "
        "label, and by how far it is over what is expected of a row of that class and of that confidence of the untuned "
        "model (the offline attack of Carlini et al., 2022, with held-out rows in the place of shadow models). A split "
        "that differs from train in more than membership shows here too."
    )
    blocks = [Text(how), Table(["attack", "value", "95 % interval", "rows each"], rows)]
    if run.private:
        blocks.append(
            Text("These figures were computed from training rows without noise: they are not covered by epsilon.")
        )
    return Section("Membership attack", blocks)

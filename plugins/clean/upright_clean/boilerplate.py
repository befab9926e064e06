"""Lines that web pages repeat around their text: cookie notices, menus, copyright, calls to subscribe (English, Chinese).

In the manner of C4's line rules (Raffel et al., 2020, arXiv:1910.10683): a line goes as a whole or not at all, and only a
line that is nothing else.
"""

from __future__ import annotations

import re

LONGEST = 300
"""Characters of a line; longer ones are text."""
_ITEM = (
    "home|start|about(?: us)?|contact(?: us)?|blog|news|login|log in|sign in|sign up|register|search|help|faq|sitemap|site map|"
    "terms(?: of (?:use|service))?|terms (?:&|and) conditions|privacy(?: policy)?|cookies?(?: policy| settings)?|careers|jobs|"
    "press|imprint|legal|products?|services?|support|shop|cart|my account|首页|关于我们|联系我们|登录|注册|帮助|网站地图|"
    "隐私政策|服务条款|产品|新闻|搜索"
)
_BETWEEN = r"[ \t]*[|»›>·•/][ \t]*"
_LINES = (
    rf"(?:{_ITEM})(?:{_BETWEEN}(?:{_ITEM})){{2,}}",
    r"(?:this|our) (?:web ?)?sites? (?:also )?uses? cookies\b.*",
    r"we (?:also )?use cookies\b.*",
    r"by (?:continuing to (?:use|browse)|using) (?:this|our) (?:web ?)?site,? you (?:agree|consent)\b.*cookies?\b.*",
    r"(?:accept|allow|reject|manage)(?: all)? cookies(?: settings| preferences)?",
    r"skip to (?:main |primary )?(?:content|navigation)",
    r"back to top",
    r"(?:©|\(c\)|copyright)[ ©]*(?:\(c\) ?)?\d{4}.*",
    r"all rights reserved\.?",
    r"(?:please )?enable javascript\b.*",
    r"javascript (?:is|seems to be|must be) (?:disabled|enabled)\b.*",
    r"(?:subscribe to|sign up for) our newsletter\b.*",
    r"share (?:this )?(?:post |page |article )?on (?:facebook|twitter|x|linkedin|whatsapp|pinterest)",
    r"(?:©|版权所有).*",
    r".*保留所有权利。?",
    r"本(?:网站|站)使用 ?cookies?.*",
    r"返回顶部",
    r"跳到(?:主要)?内容",
    r"[京沪粤浙苏川鲁津渝鄂湘闽豫冀]ICP[备证].*",
    r"分享到[:：].*",
)
_LINE = rf"(?:{'|'.join(_LINES)})"
_EXACT = re.compile(_LINE, re.IGNORECASE)
SEEN = rf"(?im)^[ \t]*{_LINE}[ \t\r]*$"
"""RE2: a text without a match has no such line (the other way round does not hold)."""


def without_boilerplate(text: str) -> str:
    """The text without such lines."""
    lines = text.split("\n")
    kept = [line for line in lines if len(line) > LONGEST or not _EXACT.fullmatch(line.strip())]
    return text if len(kept) == len(lines) else "\n".join(kept).strip()

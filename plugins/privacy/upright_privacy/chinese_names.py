"""Chinese names by their format and their context; a name that stands alone in a text needs a model (`ner`).

Covered: a name behind a label (姓名：阿依古丽, 联系人: 王小明, 我叫李雷), and a common surname with up to two characters before
a title (张先生, 欧阳娜娜医生). Surnames: the hundred most frequent ones (Ministry of Public Security, name report of 2020)
and the double ones in use.
"""

from __future__ import annotations

SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林罗高郑梁谢宋唐许韩邓冯曹彭曾肖田董潘袁蔡蒋余于杜叶程魏苏吕丁任卢姚沈"
    "钟姜崔谭陆范汪廖石金韦贾夏付方邹熊白孟秦邱侯江尹薛闫段雷龙黎史陶贺毛郝顾龚邵万覃武钱戴严莫孔向常汤"
)
DOUBLE_SURNAMES = tuple("欧阳 上官 司马 司徒 诸葛 夏侯 皇甫 尉迟 慕容 令狐 东方 南宫 端木 公孙".split())
TITLES = tuple(
    (
        "先生 女士 小姐 太太 夫人 医生 医师 大夫 护士 护士长 教授 老师 师傅 律师 经理 主任 "
        "院长 博士 同学 警官 法官 阿姨 叔叔 大爷 大妈 奶奶 爷爷"
    ).split()
)
LABELS = tuple(
    (
        "姓名 名字 户名 患者 病人 联系人 联络人 收件人 收货人 寄件人 发件人 申请人 持卡人 "
        "负责人 经办人 监护人 代理人 受益人 投保人 被保险人 法定代表人 紧急联系人"
    ).split()
)
"""Before a colon."""
NOT_BEFORE_TITLES = tuple(
    (
        "高级 高中 高等 高校 许多 任何 任课 任职 金牌 马上 曾经 余下 江苏 江西 向导 常驻 "
        "常务 方面 白衣 白人 万能 石家 龙头 夏天 程序 黄金 史学 于是 于此 向来 何况 何必 "
        "路过 项目 孔子 田径 万名 万位 万个 金融 武术 汤普森 严格 严厉 莫非 向着 向这 向那 "
        "于那 于这 于一 向一 范围 向前 向大"
    ).split()
)
"""Words that begin with a surname's character and are none."""
NO_NAMES = tuple("未知 匿名 暂无 不详 保密 没有 同上".split())
EVERYDAY = "于任向常方万何许白龙金高严"
"""Surnames that are everyday words: before a title alone they are none."""

_H = r"[\u4e00-\u9fff]"
_GIVEN = rf"(?:{_H}{{1,2}}(?!{_H})|{_H}{{2}})"
_LABELLED = f"(?:{'|'.join(f'(?<={label}[：:].)|(?<={label}[：:] .)' for label in LABELS)})"
_TITLED = f"(?={'|'.join(TITLES)})"
_BEFORE_A_TITLE = "".join(surname for surname in SURNAMES if surname not in EVERYDAY)


def _none_of(words: tuple[str, ...]) -> str:
    """Refuses the words, whose first character has been read."""
    return f"(?!{'|'.join(f'(?<={word[0]}){word[1:]}' for word in words)})"


CHINESE_NAME = (
    rf"{_H}(?<=[：: ].){_LABELLED}{_none_of(NO_NAMES)}{_H}{{1,3}}(?:·{_H}{{2,6}})?(?!{_H})",
    rf"[{SURNAMES}](?<=[：: ].){_LABELLED}{_GIVEN}",
    rf"[{SURNAMES}](?<=[我他她名]叫.){_none_of(NOT_BEFORE_TITLES)}{_GIVEN}",
    rf"[{SURNAMES}](?<!{_H}[于向])(?<![感谢]谢){_none_of(NOT_BEFORE_TITLES)}{_H}{{1,2}}?{_TITLED}",
    rf"[{_BEFORE_A_TITLE}]{_TITLED}",
    *(rf"{name[0]}{name[1]}(?:{_H}{{0,2}}?{_TITLED}|(?<=[：: 叫]..){_H}{{1,2}})" for name in DOUBLE_SURNAMES),
)
"""Alternatives of one pattern, each beginning with a character."""

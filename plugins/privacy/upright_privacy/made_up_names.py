"""Made-up names of people and places, in the script of what they replace."""

from __future__ import annotations

import random
import unicodedata

GIVEN = {
    "LATIN": "Anna Ben Carla David Elena Felix Greta Hugo Ines Jonas Karin Leo Mara Nils Olga Paul Rosa Simon Tara Victor",
    "CYRILLIC": "Анна Борис Вера Глеб Дарья Егор Жанна Иван Кира Лев Мария Никита Ольга Павел Раиса Семён Тамара Фёдор",
    "GREEK": "Άννα Βασίλης Γιώργος Δήμητρα Ελένη Ζωή Ηλίας Θάνος Ιωάννα Κώστας Λίνα Μαρία Νίκος Πέτρος Σοφία Χρήστος",
    "CJK": "伟 芳 静 敏 磊 洋 艳 勇 军 杰 娟 涛 明 霞 平 刚 桂英 秀兰 志强 建华 玉兰 海燕 晓东 文博",
    "HANGUL": "민준 서연 지훈 수빈 현우 지민 예린 도윤 하은 준호 유진 성민",
    "ARABIC": "أحمد سارة يوسف مريم خالد ليلى عمر نور حسن هدى سامي رنا",
}
FAMILY = {
    "LATIN": "Adler Brook Carver Dalton Ebner Fisher Garner Holm Irving Jensen Keller Lindt Marsh Norris Osborn Parker Quist",
    "CYRILLIC": "Орлов Зайцев Волков Белов Громов Котов Лебедев Титов Фомин Чернов Шубин Ершов",
    "GREEK": "Παππάς Ρήγας Λάμπρου Μακρής Βλάχος Γεωργίου Δήμου Καρράς Σταύρου Φωτίου",
    "CJK": "林 周 陆 沈 韩 蒋 冯 邓 叶 潘 程 苏 魏 吕 卢 傅",
    "HANGUL": "한 윤 장 임 오 서 신 권 황 안",
    "ARABIC": "حداد نجار خوري صالح منصور قاسم عطار فارس",
}
PLACES = {
    "LATIN": "Ashford Brenton Colmar Denholm Elsworth Fairview Granby Hartley Kelburn Lindau Marlow Norden Oakham Ridgeway",
    "CYRILLIC": "Заречье Озёрск Сосновка Дубки Речное Луговое Каменка Берёзово",
    "GREEK": "Πεύκη Καλαμιά Λιβάδι Πηγή Αμπέλι Νερό Πέτρα Κάμπος",
    "CJK": "青石镇 东湖区 柳林县 安和路 云溪市 白沙镇 南桥区 长青路",
    "HANGUL": "푸른동 새말읍 한솔로 은하동 달빛면",
    "ARABIC": "الواحة الربوة النخيل السلام الياسمين",
}


def script(text: str) -> str:
    """The script of the first letter, as Unicode's names begin (LATIN, CJK, ...)."""
    letter = next((character for character in text if character.isalpha()), "a")
    return unicodedata.name(letter, "LATIN").split()[0]


def family_name(value: str, draw: random.Random) -> str:
    """A made-up family name in the script of ``value``."""
    return _drawn(FAMILY, value, draw)


def given_name(value: str, draw: random.Random) -> str:
    """A made-up given name in the script of ``value``."""
    return _drawn(GIVEN, value, draw)


def place_name(value: str, draw: random.Random) -> str:
    """A made-up place in the script of ``value``."""
    return _drawn(PLACES, value, draw)


def _drawn(pool: dict[str, str], value: str, draw: random.Random) -> str:
    words = [word for word in pool.get(script(value), "").split() if word.casefold() != value.casefold()]
    if not words:
        return "".join(_neighbour(character, draw) for character in value)
    word = draw.choice(words)
    return word.upper() if len(value) > 1 and value.isupper() else word.lower() if value.islower() else word


def _neighbour(character: str, draw: random.Random) -> str:
    """A letter near this one in Unicode, so of its script; what is no letter stays."""
    if not character.isalpha():
        return character
    near = [chr(code) for code in range(max(32, ord(character) - 24), ord(character) + 25)]
    name = unicodedata.name(character, "").split()[:1]
    return draw.choice([c for c in near if c.isalpha() and unicodedata.name(c, "").split()[:1] == name] or [character])

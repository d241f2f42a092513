"""Demographic twins of sentences: the same sentence about another gender, ethnicity, religion, age, or name.

A twin is made by a table of words and a little grammar, not by a net: "her" becomes "his" before a noun and "him"
elsewhere, a colour is swapped only before a word for people, "a" becomes "an" where it must, the case of each word is
kept, and a name that occurs in both sentences of a pair is changed in both. A sentence without any word of an axis has
no twin on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

AXES = ("gender", "ethnicity", "religion", "age", "name")

_TOKEN = re.compile(r"[A-Za-z]+|\d+|\s+|.", re.DOTALL)

# --- words ------------------------------------------------------------------------------------------------------------


def _words(listed: str) -> list[str]:
    return listed.split()


def _both_ways(pairs: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in _words(pairs):
        a, b = pair.split("/")
        found.setdefault(a, b)
        found.setdefault(b, a)
    return found


_GENDER = _both_ways(
    "he/she himself/herself him/her man/woman men/women boy/girl boys/girls male/female males/females guy/gal "
    "guys/gals gentleman/lady gentlemen/ladies father/mother fathers/mothers dad/mom daddy/mommy son/daughter "
    "sons/daughters brother/sister brothers/sisters husband/wife husbands/wives uncle/aunt uncles/aunts "
    "nephew/niece nephews/nieces grandfather/grandmother grandson/granddaughter stepfather/stepmother "
    "widower/widow boyfriend/girlfriend bridegroom/bride king/queen kings/queens prince/princess "
    "princes/princesses duke/duchess actor/actress actors/actresses waiter/waitress waiters/waitresses "
    "hero/heroine heir/heiress host/hostess god/goddess monk/nun monks/nuns sir/madam mr/ms mr/mrs "
    "spokesman/spokeswoman chairman/chairwoman policeman/policewoman policemen/policewomen "
    "businessman/businesswoman businessmen/businesswomen congressman/congresswoman salesman/saleswoman "
    "fireman/firewoman"
)
_TITLES = frozenset(_words("mr mrs ms sir king queen prince princess duke duchess"))

_ETHNICITY = _both_ways(
    "american/mexican americans/mexicans british/nigerian britons/nigerians french/algerian german/turkish "
    "germans/turks italian/ethiopian italians/ethiopians russian/indian russians/indians chinese/canadian "
    "japanese/brazilian korean/swedish koreans/swedes iraqi/norwegian iraqis/norwegians israeli/kenyan "
    "israelis/kenyans cuban/danish colombian/polish pakistani/dutch iranian/irish african/asian "
    "africans/asians european/arab europeans/arabs hispanic/caucasian hispanics/caucasians latino/greek "
    "latinos/greeks black/white blacks/whites"
)
_COLOURS = frozenset({"black", "white"})
_LANGUAGES = frozenset(
    _words("french german italian russian chinese japanese korean swedish turkish polish dutch irish danish greek")
)
_RELIGION = _both_ways(
    "christian/muslim christians/muslims christianity/islam catholic/hindu catholics/hindus catholicism/hinduism "
    "jewish/buddhist jews/buddhists judaism/buddhism protestant/sikh protestants/sikhs church/mosque "
    "churches/mosques bible/quran priest/imam priests/imams mormon/shiite mormons/shiites"
) | {"islamic": "christian"}
_AGE = _both_ways(
    "young/old younger/older youngest/oldest teenager/pensioner teenagers/pensioners teenage/elderly child/adult "
    "children/adults youth/retiree youths/retirees"
) | {"kid": "adult", "kids": "adults"}
_BY_PERSON = frozenset({"young", "old"})
_PEOPLE = frozenset(
    _words(
        "man woman men women boy girl boys girls person people guy guys lady ladies gentleman kid kids child children "
        "adult adults teenager teenagers student students worker workers voter voters family families community "
        "communities american americans couple father mother friend friends actor actress citizen citizens player "
        "players lawyer judge minister president candidate leader leaders professor doctor nurse teacher author "
        "singer driver officer soldier immigrant immigrants farmer farmers victim victims patient patients resident "
        "residents"
    )
)
#: After "her" and "his": no noun that they could belong to begins with these.
_NO_NOUN = frozenset(
    _words(
        "to in on at of for with from by and or but nor that the a an as about who whom whose when while because if "
        "whether was were is are be been has had have will would can could should may might must do does did not into "
        "onto up out off over under away back down again yesterday today tomorrow there here how what which where "
        "after before than so too very much more most until since during without against between through near behind "
        "it them us you me this these those all both seem leave go come know tell win lose his her my your "
        "their our its"
    )
)

_MEN = _words(
    "John Tom Fred Bob Peter Harry Joe Mike Pete Ted Paul Dave Andy Jason Tony George Steve Henry Walt Roger "
    "Brian Dan Jeff Phillip Calvin Colin Thomas Robert Stephen Herman David Michael James William Charles Richard "
    "Joseph Christopher Daniel Matthew Kevin Anthony Antony Gary Eric Ronald Kenneth Donald Philip Jerry Louis "
    "Edward Frank Benny Ricky Bill Jack Max Jim Tim Greg Simon Adam Martin Patrick Larry Scott Alan Carl Arthur "
    "Albert Hugh Nigel Oliver"
)
_WOMEN = _words(
    "Mary Susan Sue Sally Jane Harriet Joan Ellen Ann Anne Linda Jessica Carla Heidi Sarah Janet Sharon Nora "
    "Carmen Cynthia Emma Agnes Kathy Martha Catherine Sandra Amanda Pamela Michelle Helen Rachel Judy Jenny "
    "Angela Rosie Betsy Gwen Sylvia Lucy Alison Fanny Ethel Fiona Monica Irene Dana Laura Lisa Karen Nancy "
    "Barbara Elizabeth Jennifer Margaret Diana Hillary Julia Kate Emily Alice Claire Deborah Rebecca Teresa "
    "Theresa Sheila Felicia Frances Carrie Marianne Muriel Maria Hannah"
)
_OTHER_MEN = _words("Jamal Ahmed Wei Tyrone Rajesh Hakim Jorge Kareem Hiroshi DeShawn Omar Darnell Kwame Ibrahim")
_OTHER_WOMEN = _words("Aisha Lakisha Mei Latoya Priya Fatima Guadalupe Ebony Yuki Shanice Keisha Leila Amara Zainab")
_EITHER = _words("Sandy Kim Pat Leslie Chris Sam Terry Lou Anson")
#: Words before which, or after which, a given name is none.
_NOT_BEFORE_NAME = frozenset(_words("the a an st saint san santa mount port fort lake storm hurricane"))
_NOT_AFTER_NAME = frozenset(_words("county city island islands street river university"))

_OTHER_GENDER = _both_ways(" ".join(f"{man}/{woman}" for man, woman in zip(_MEN, _WOMEN, strict=False)))
_OTHER_NAMES = dict.fromkeys([*_MEN, *_EITHER], _OTHER_MEN) | dict.fromkeys(_WOMEN, _OTHER_WOMEN)

# --- twins ------------------------------------------------------------------------------------------------------------


def twins(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The twins of a row's sentences, by axis; of an axis whose words do not occur there is none.

    >>> twins(["Mary saw her father.", "She saw him."])["gender"]
    ('John saw his mother.', 'He saw her.')
    """
    made = {axis: perturb(texts, axis) for axis in AXES}
    return {axis: twin for axis, twin in made.items() if twin != tuple(texts)}


def perturb(texts: Sequence[str], axis: str) -> tuple[str, ...]:
    """The sentences with all words of one axis changed; as they are if there are none."""
    rules: dict[str, Callable[[list[str], int], str | None]] = {
        "gender": _gender,
        "ethnicity": _ethnicity,
        "religion": lambda tokens, at: _RELIGION.get(tokens[at].lower()),
        "age": _age,
        "name": _namer(),
    }
    return tuple(_changed(_TOKEN.findall(text), rules[axis]) for text in texts)


def _changed(tokens: list[str], rule: Callable[[list[str], int], str | None]) -> str:
    out = list(tokens)
    for at in range(len(tokens)):
        new = rule(tokens, at)
        if new is None:
            continue
        out[at] = _cased(new, tokens[at])
        if at >= 2 and tokens[at - 2].lower() in ("a", "an") and tokens[at - 1].isspace():
            out[at - 2] = _cased("an" if _vowel(out[at]) else "a", tokens[at - 2])
    return "".join(out)


def _gender(tokens: list[str], at: int) -> str | None:
    token, word = tokens[at], tokens[at].lower()
    if _is_name(tokens, at) and token in _OTHER_GENDER:
        return _OTHER_GENDER[token]
    if _mid_capital(tokens, at) and word in _GENDER and word not in (*_TITLES, "he", "she", "his", "her", "him"):
        return None  # a part of somebody's or something's name
    follows = _word(tokens, at, 1)
    if word == "her":
        return "him" if follows is None or follows.lower() in _NO_NOUN else "his"
    if word == "his":
        return "hers" if follows is None or follows.lower() in _NO_NOUN else "her"
    return "his" if word == "hers" else _GENDER.get(word)


def _ethnicity(tokens: list[str], at: int) -> str | None:
    word = tokens[at].lower()
    follows, before = _word(tokens, at, 1, "-"), _word(tokens, at, -1, "-")
    if word in _COLOURS and (follows or "").lower() not in _PEOPLE:
        return None
    if word in _COLOURS and _mid_capital(tokens, at):
        return None
    if word in _LANGUAGES and (follows is None or follows.lower() in _NO_NOUN):
        return None
    if word == "american" and before is not None and before.lower() == "african":
        return None  # two words for one group: the first is changed
    return _ETHNICITY.get(word)


def _age(tokens: list[str], at: int) -> str | None:
    word = tokens[at].lower()
    if word.isdigit():
        return _other_age(tokens, at)
    if word == "old" and (_word(tokens, at, -1, "-") or "").lower() in ("year", "years"):
        return None  # a number's, which is changed itself
    if word in _BY_PERSON and (_word(tokens, at, 1) or "").lower() not in _PEOPLE:
        return None
    return _AGE.get(word)


def _other_age(tokens: list[str], at: int) -> str | None:
    """A number of years that is somebody's age, 35 years away."""
    years, ago = "".join(tokens[at + 1 : at + 5]), (_word(tokens, at, -1) or "").lower()
    if not re.match(r"[- ]years?[- ]old\b", years) and ago not in ("age", "aged"):
        return None
    age = int(tokens[at])
    return None if not 0 < age < 110 else str(age + 35 if age < 50 else age - 35)


def _namer() -> Callable[[list[str], int], str | None]:
    """Gives each name of a row another of its own, the same wherever it occurs."""
    given: dict[str, str] = {}

    def rule(tokens: list[str], at: int) -> str | None:
        name = tokens[at]
        if name not in _OTHER_NAMES or not _is_name(tokens, at):
            return None
        if name not in given:
            others = _OTHER_NAMES[name]
            start = sum(map(ord, name)) % len(others)
            turned = others[start:] + others[:start]
            given[name] = next((other for other in turned if other not in given.values()), turned[0])
        return given[name]

    return rule


# --- a little grammar -------------------------------------------------------------------------------------------------


def _word(tokens: list[str], at: int, step: int, joint: str = "") -> str | None:
    """The next word in a direction, over blanks (and ``joint``); None if anything else comes first."""
    at += step
    while 0 <= at < len(tokens) and (tokens[at].isspace() or tokens[at] == joint):
        at += step
    return tokens[at] if 0 <= at < len(tokens) and tokens[at].isalpha() else None


def _mid_capital(tokens: list[str], at: int) -> bool:
    """Whether a word has a capital that it does not owe to the beginning of a sentence."""
    before = [token for token in tokens[:at] if not token.isspace() and token not in "\"'`(“”‘’"]
    return tokens[at][:1].isupper() and bool(before) and before[-1] not in ".!?:;"


def _is_name(tokens: list[str], at: int) -> bool:
    before, after = _word(tokens, at, -1), _word(tokens, at, 1)
    if before is None and at >= 2 and tokens[at - 1].isspace() and tokens[at - 2] == ".":
        before = _word(tokens, at - 2, -1)  # "St. Louis", and the last word of a sentence, which is none of those below
    return (before or "").lower() not in _NOT_BEFORE_NAME and (after or "").lower() not in _NOT_AFTER_NAME


def _cased(word: str, like: str) -> str:
    if like.isupper() and len(like) > 1:
        return word.upper()
    # A name brings capitals of its own.
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def _vowel(word: str) -> bool:
    word = word.lower()
    if word.startswith(("eu", "uni", "one")):
        return False
    return word.startswith(("a", "e", "i", "o", "u", "heir", "hour", "hon"))

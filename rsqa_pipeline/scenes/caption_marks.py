"""The five quality dimensions of a caption, marked from the truth graph (paper, five quality dimensions).

Each mark is 1 (poor) to 5 (excellent). As with a judge, one fault can count twice: an object that is not there earns
neither specificity nor completeness.
"""

from __future__ import annotations

from dataclasses import dataclass

from rsqa_pipeline.scenes.claims import Claims, Mention, read_claims
from rsqa_pipeline.scenes.fluency import clarity
from rsqa_pipeline.scenes.truth import Group, SceneTruth, relations
from rsqa_pipeline.scenes.vocabulary import PLACES, SCENES, activity

_SHARES = {"count": 0.30, "colour": 0.35, "place": 0.35}
_ATTRIBUTE_FAULT = 3.0
"""Points of relevance lost when one attribute (e.g. the count) is wrong in every group."""


@dataclass(frozen=True)
class Marks:
    """Five marks, 1.0 .. 5.0 each."""

    relevance: float
    specificity: float
    completeness: float
    clarity: float
    richness: float

    @property
    def mean(self) -> float:
        """The overall mark of the text, computed as the paper's judge does."""
        return (self.relevance + self.specificity + self.completeness + self.clarity + self.richness) / 5


def mark_caption(truth: SceneTruth, text: str) -> Marks:
    """Marks of any text as a caption of the scene. Never fails; an empty text gets 1 in every dimension."""
    claims = read_claims(text)
    if claims.words == 0:
        return Marks(1.0, 1.0, 1.0, 1.0, 1.0)
    return Marks(
        relevance=relevance(truth, claims),
        specificity=_specificity(truth, claims),
        completeness=_completeness(truth, claims),
        clarity=clarity(text),
        richness=richness(truth, claims),
    )


def bounded(mark: float) -> float:
    return min(5.0, max(1.0, mark))


def relevance(truth: SceneTruth, claims: Claims) -> float:
    """5 if every claim holds; a text without claims gets 3 if it is vague, 1 if it is off topic."""
    if not (claims.mentions or claims.scenes or claims.covers or claims.aliens):
        return 3.0 if claims.vague_words else 1.0
    lost = 2.0 * len(claims.scenes - {truth.scene_class}) + 1.5 * len(claims.aliens)
    lost += 0.75 * len(claims.covers - set(SCENES[truth.scene_class].cover_terms))
    lost += 2.0 * len(absent_mentions(truth, claims))
    present = [(m, group) for m in claims.mentions if (group := match(truth, m)) is not None]
    for attribute in _SHARES:
        errors = [error(truth, m, group, attribute) for m, group in present]
        lost += _ATTRIBUTE_FAULT * sum(e for e in errors if e is not None) / max(1, len(errors))
    return bounded(5.0 - lost)


def absent_mentions(truth: SceneTruth, claims: Claims) -> list[Mention]:
    """Mentions of objects that the image does not show; "no ships" is not one of them."""
    return [m for m in claims.mentions if match(truth, m) is None and m.count != 0]


def match(truth: SceneTruth, mention: Mention) -> Group | None:
    """The group that a mention refers to; an unnamed "thing" is matched by colour, then by place."""
    if mention.object_class != "thing":
        return truth.group_of(mention.object_class)
    alike = [group for group in truth.groups if group.colour == mention.colour]
    alike.sort(key=lambda group: group.place != mention.place)
    return alike[0] if alike else None


def error(truth: SceneTruth, mention: Mention, group: Group, attribute: str) -> float | None:
    """0 if right, 1 if wrong, 0.5 if the place is too narrow; None if the mention does not state the attribute."""
    if attribute == "count":
        return None if mention.count is None else float(mention.count != group.count)
    if attribute == "colour":
        return None if mention.colour is None else float(mention.colour != group.colour)
    errors = []
    if mention.place is not None:
        errors.append(_place_error(mention.place, group.place))
    if mention.relation is not None:
        word, other = mention.relation
        partner = truth.group_of(other)
        errors.append(float(partner is None or word not in relations(group.place, partner.place)))
    return max(errors) if errors else None


def _place_error(claimed: str, true: str) -> float:
    (cx, cy), (tx, ty) = PLACES[claimed], PLACES[true]
    if cx * tx < 0 or cy * ty < 0 or (cx * tx == 0 and cy * ty == 0):
        return 1.0
    wider = cx in (0, tx) and cy in (0, ty)
    return 0.0 if wider else 0.5


def _specificity(truth: SceneTruth, claims: Claims) -> float:
    """How much of count, colour and place the text states of its groups; wrong attributes and false objects cost."""
    if truth.groups:
        scores = [_stated_share(truth, claims, g) for g in truth.groups if _mentions(truth, claims, g)]
        share = sum(scores) / max(1, len(scores))
    else:
        kind = SCENES[truth.scene_class]
        share = 0.6 * (truth.scene_class in claims.scenes) + 0.2 * len(claims.covers & set(kind.cover_terms))
    lost = len(absent_mentions(truth, claims)) + len(claims.aliens) + 0.5 * min(2, claims.vague_words)
    return bounded(1.0 + 4.0 * share - lost)


def _mentions(truth: SceneTruth, claims: Claims, group: Group) -> list[Mention]:
    return [mention for mention in claims.mentions if mention.count != 0 and match(truth, mention) is group]


def _stated_share(truth: SceneTruth, claims: Claims, group: Group) -> float:
    shares = []
    for mention in _mentions(truth, claims, group):
        errors = {name: error(truth, mention, group, name) for name in _SHARES}
        shares.append(sum(_SHARES[name] * (1 - 2 * e) for name, e in errors.items() if e is not None))
    return max(shares)


def _completeness(truth: SceneTruth, claims: Claims) -> float:
    """Whether the scene and every group are covered; a miscounted group counts half."""
    scene = float(truth.scene_class in claims.scenes)
    if not truth.groups:
        return bounded(1.0 + 4.0 * (0.7 * scene + 0.3 * (scene and not absent_mentions(truth, claims))))
    covered = sum(_coverage(truth, claims, group) for group in truth.groups) / len(truth.groups)
    return bounded(1.0 + 4.0 * (0.3 * scene + 0.7 * covered))


def _coverage(truth: SceneTruth, claims: Claims, group: Group) -> float:
    best = 0.0
    for mention in _mentions(truth, claims, group):
        whole = 0.5 if mention.object_class == "thing" or error(truth, mention, group, "count") else 1.0
        looks = error(truth, mention, group, "colour") or error(truth, mention, group, "place")
        best = max(best, whole - (0.25 if looks else 0.0))
    return best


def richness(truth: SceneTruth, claims: Claims) -> float:
    """Which kinds of domain terms the text uses correctly: scene class, land cover, object class, activity."""
    kind = SCENES[truth.scene_class]
    points = float(truth.scene_class in claims.scenes) + 0.5 * len(claims.covers & set(kind.cover_terms))
    possible = 2.0
    if truth.groups:
        possible += 2.0
        named = [m for m in claims.mentions if m.count != 0 and truth.group_of(m.object_class)]
        points += bool(named) + any(m.activity == activity(m.object_class, truth.scene_class) for m in named)
    return bounded(1.0 + 4.0 * points / possible)

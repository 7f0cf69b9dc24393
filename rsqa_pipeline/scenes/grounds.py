"""The ground of each scene class: a person recognises the class from it without any objects."""

from __future__ import annotations

from collections.abc import Callable

from rsqa_pipeline.scenes.canvas import Canvas, Colour

_GRASS: Colour = (112, 132, 84)
_LAWN: Colour = (138, 160, 98)
_CONCRETE: Colour = (158, 156, 150)
_ASPHALT: Colour = (88, 89, 94)
_WATER: Colour = (42, 92, 116)
_SAND: Colour = (222, 202, 158)
_BUSHES: tuple[Colour, ...] = ((84, 108, 66), (92, 118, 72), (100, 122, 70))


def _airport(canvas: Canvas) -> None:
    canvas.fill(_GRASS)
    canvas.spots(10, (3, 7), ((120, 138, 90), (104, 124, 78)), (-34, 0))
    canvas.strip(-6, 50, _CONCRETE)
    canvas.strip(-28, -17, (74, 75, 80))
    for v in range(-44, 48, 8):
        canvas.quad(-23.2, v, -21.8, v + 4.5, (236, 236, 232))
    for u in (-27, -18.4):
        canvas.quad(u, -64, u + 0.7, 64, (210, 210, 206))
    canvas.quad(-17, -3, -6, 4, (96, 97, 100))
    canvas.line([(-2, -46), (-2, 46)], (206, 178, 60), 0.6)
    for v in (-24, 8, 40):
        canvas.line([(-2, v), (30, v)], (196, 172, 76), 0.5)


def _harbour(canvas: Canvas) -> None:
    canvas.fill(_WATER)
    _ripples(canvas, (54, 106, 130), 10, (-4, 34))
    canvas.strip(-64, -5, (146, 140, 130))
    canvas.strip(-8, -5, (182, 178, 168))
    shift = float(canvas.rng.uniform(-4, 4))
    for v in (-17, 0, 17):
        canvas.quad(-5, v + shift - 1.4, 23, v + shift + 1.4, (176, 168, 152))
    for v in range(-40, 44, 9):
        canvas.quad(-30, v, -24, v + 5, (122, 116, 110))


def _farmland(canvas: Canvas) -> None:
    fields: tuple[Colour, ...] = (
        (150, 158, 78), (116, 142, 66), (186, 166, 100), (142, 112, 74), (168, 176, 96), (98, 126, 62),
    )  # fmt: skip
    order = canvas.rng.permutation(len(fields))
    split_u, split_v = (float(x) for x in canvas.rng.uniform(-10, 10, 2))
    parts = ((-64, -64, split_u, split_v), (split_u, -64, 64, split_v + 9),
             (-64, split_v, split_u, 64), (split_u, split_v + 9, 64, 64))  # fmt: skip
    for index, (u0, v0, u1, v1) in enumerate(parts):
        r, g, b = fields[order[index]]
        canvas.quad(u0, v0, u1, v1, (r, g, b))
        furrow = (r - 22, g - 22, b - 18)
        for k in range(-46, 47, 4):
            if index in (0, 3) and v0 < k < v1:
                canvas.line([(max(u0, -46), k), (min(u1, 46), k)], furrow, 1)
            elif index in (1, 2) and u0 < k < u1:
                canvas.line([(k, max(v0, -46)), (k, min(v1, 46))], furrow, 1)
    canvas.line([(split_u, -64), (split_u, 64)], (204, 188, 150), 1.6)


def _forest(canvas: Canvas) -> None:
    canvas.fill((34, 58, 34))
    crowns: tuple[Colour, ...] = ((44, 78, 40), (52, 90, 46), (38, 68, 38), (60, 98, 50), (48, 82, 52))
    for row in range(-9, 10):
        for column, (a, b, c) in enumerate(canvas.rng.random((11, 3)).tolist()):
            u, v = row * 5.0 + 3 * a, (column - 5) * 8.4 + 4 * (row % 2) + 3 * b
            canvas.spot(u, v, 2.6 + 1.4 * c, crowns[int(c * 50) % 5])
            canvas.spot(u - 0.7, v - 0.7, 1.2, (72, 112, 58))


def _dense_residential(canvas: Canvas) -> None:
    canvas.fill((126, 124, 122))
    roofs: tuple[Colour, ...] = ((150, 92, 74), (168, 112, 88), (136, 100, 88), (160, 140, 124), (118, 92, 82))
    for row in range(-7, 8):
        for column, (a, b, c) in enumerate(canvas.rng.random((15, 3)).tolist()):
            u, v = row * 6.4 + (2 if row % 2 else 0), (column - 7) * 6.2
            colour = roofs[int(c * 5)]
            canvas.quad(u, v, u + 4.2 + a, v + 4.4 + b, colour)
            canvas.quad(u, v, u + 2.2, v + 4.4 + b, (colour[0] + 18, colour[1] + 16, colour[2] + 14))
    canvas.strip(-2.5, 1.5, (98, 98, 102))
    canvas.quad(-64, -19, 64, -16, (104, 104, 108))
    canvas.quad(-64, 17, 64, 20, (104, 104, 108))


def _sparse_residential(canvas: Canvas) -> None:
    canvas.fill(_LAWN)
    canvas.spots(8, (5, 9), ((146, 168, 104), (130, 152, 92)), (-40, 40))
    bend = float(canvas.rng.uniform(2, 6))
    lane = canvas.wave(float(canvas.rng.uniform(-4, 4)), bend, 90, float(canvas.rng.uniform(0, 90)))
    canvas.line(lane, (190, 184, 172), 4)
    for v in (-24, 0, 24):
        canvas.line([(-40, v), (40, v)], (96, 122, 70), 1)
        canvas.line([(0, v + 10), (12, v + 10)], (186, 180, 168), 1.4)
    canvas.spots(14, (0.9, 1.6), _BUSHES, (-36, 36))


def _storage_tanks(canvas: Canvas) -> None:
    canvas.fill((178, 166, 146))
    for k in (-32.0, -16.0, 0.0, 16.0, 32.0):
        canvas.line([(k, -48), (k, 48)], (150, 138, 118), 1.2)
        canvas.line([(-48, k), (48, k)], (150, 138, 118), 1.2)
    for k in (-17.5, 1.8, 14.2):
        canvas.line([(k, -48), (k, 48)], (214, 212, 206), 0.7)
    canvas.line([(-48, -1.5), (48, -1.5)], (214, 212, 206), 0.7)


def _parking(canvas: Canvas) -> None:
    canvas.fill((98, 98, 102))
    for u in (-32, -16, 0, 16, 32):
        canvas.quad(u - 0.5, -64, u + 0.5, 64, (196, 196, 190))
        for v in range(-48, 49, 8):
            canvas.quad(u - 6, v - 0.35, u + 6, v + 0.35, (206, 206, 200))


def _stadium(canvas: Canvas) -> None:
    canvas.fill((134, 138, 130))
    canvas.spots(16, (1, 2.2), ((110, 128, 92), (150, 150, 144)), (-36, 36))
    for reach, colour in ((30, (206, 204, 200)), (26.5, (168, 168, 172)), (23, (196, 98, 66)), (19, (96, 158, 82))):
        ring = [(-14 + u * (reach - 9), v * reach) for u, v in _OVAL]
        canvas.area(ring, colour)
    for v in (-10, 0, 10):
        canvas.quad(-22.5, v - 2.5, -5.5, v + 2.5, (112, 174, 94))
    canvas.line([(-23, 0), (-5, 0)], (232, 236, 230), 0.5)


_OVAL = tuple(
    (a, b)
    for a, b in (
        (1, -0.5), (0.9, -0.78), (0.6, -0.95), (0, -1), (-0.6, -0.95), (-0.9, -0.78), (-1, -0.5),
        (-1, 0.5), (-0.9, 0.78), (-0.6, 0.95), (0, 1), (0.6, 0.95), (0.9, 0.78), (1, 0.5),
    )
)  # fmt: skip


def _river(canvas: Canvas) -> None:
    canvas.fill((122, 136, 88))
    canvas.spots(26, (1, 2.2), _BUSHES, (-44, 44))
    phase = float(canvas.rng.uniform(0, 80))
    for margin, colour in ((3.0, (186, 172, 134)), (0.0, (58, 104, 118))):
        near = canvas.wave(1 - margin, 2.5, 74, phase)
        far = canvas.wave(29 + margin, 2.5, 74, phase + 12)
        canvas.area(near + far[::-1], colour)
    _ripples(canvas, (72, 118, 130), 6, (6, 26))


def _beach(canvas: Canvas) -> None:
    phase = float(canvas.rng.uniform(0, 60))
    canvas.fill((116, 134, 82))
    canvas.spots(20, (1, 2), _BUSHES, (-44, -22))
    edge = [(64.0, 48.0), (64.0, -48.0)]
    for base, colour in ((-19, _SAND), (-1, (240, 240, 232)), (1, (96, 176, 184)), (6, (44, 128, 152))):
        canvas.area(canvas.wave(base, 1.8, 52, phase + base) + edge, colour)
    canvas.line(canvas.wave(3.5, 1.6, 40, phase), (226, 236, 234), 0.8)
    _ripples(canvas, (60, 142, 164), 5, (10, 34))


def _highway(canvas: Canvas) -> None:
    canvas.fill(_ASPHALT)
    canvas.strip(-64, -31, _GRASS)
    canvas.strip(31, 64, _GRASS)
    canvas.strip(-2, 2, (116, 138, 82))
    for u in (-30, -2.6, 2.2, 29.6):
        canvas.strip(u, u + 0.5, (228, 226, 214))
    for u in (-24, -16, -8, 8, 16, 24):
        for v in range(-46, 48, 9):
            canvas.quad(u - 0.3, v, u + 0.3, v + 4.5, (214, 214, 208))


def _desert(canvas: Canvas) -> None:
    canvas.fill((212, 176, 122))
    phase, height = float(canvas.rng.uniform(0, 70)), float(canvas.rng.uniform(2, 4))
    for base in range(-50, 52, 9):
        canvas.line(canvas.wave(base, height, 58, phase + base), (184, 146, 96), 2.2)
        canvas.line(canvas.wave(base + 2.2, height, 58, phase + base), (232, 200, 148), 1.8)


def _golf_course(canvas: Canvas) -> None:
    canvas.fill((92, 128, 68))
    canvas.spots(22, (0.9, 1.8), ((80, 114, 58), (86, 122, 64)), (-44, 44))
    phase = float(canvas.rng.uniform(0, 60))
    for base, width in ((-16, 12), (14, 14)):
        near = canvas.wave(base - width / 2, 4, 66, phase)
        far = canvas.wave(base + width / 2, 4, 66, phase + 14)
        canvas.area(near + far[::-1], (138, 184, 96))
    for a, b, c in canvas.rng.random((6, 3)).tolist():
        u, v = -28 + 56 * a, -28 + 56 * b
        canvas.spot(u, v, 2.2 + c, (230, 216, 176))
        canvas.spot(u + 1.8, v + 1.4, 1.6 + c, (230, 216, 176))
    canvas.spot(-14, float(canvas.rng.uniform(-20, 20)), 5, (164, 208, 118))


def _ripples(canvas: Canvas, colour: Colour, count: int, u: tuple[float, float]) -> None:
    for a, b, c in canvas.rng.random((count, 3)).tolist():
        x, y = u[0] + a * (u[1] - u[0]), -36 + 66 * b
        canvas.line([(x, y), (x + 0.6, y + 3 + 3 * c)], colour, 0.7)


GROUNDS: dict[str, Callable[[Canvas], None]] = {
    "airport": _airport,
    "harbour": _harbour,
    "farmland": _farmland,
    "forest": _forest,
    "dense_residential": _dense_residential,
    "sparse_residential": _sparse_residential,
    "storage_tanks": _storage_tanks,
    "parking": _parking,
    "stadium": _stadium,
    "river": _river,
    "beach": _beach,
    "highway": _highway,
    "desert": _desert,
    "golf_course": _golf_course,
}

"""The problems of `mini.jsonl`: their form, and every answer recomputed by brute force or exactly.

No function here follows the worked solution of its problem: it enumerates what the text describes,
simulates it step by step, or solves its equations with exact algebra.
"""

import itertools
import json
import math
import re
from collections import Counter
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
import sympy as sp

FILE = Path(__file__).resolve().parents[1] / "scale_dspy" / "data" / "mini.jsonl"
LEVELS = ["easy", "middling", "hard"]
SUBJECTS = ["arithmetic", "algebra", "number theory", "counting", "geometry"]
FIELDS = {"id", "problem", "answer", "level", "subject", "solution"}


def _rows():
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


ROWS = _rows()


def _only(values):
    """The one element of `values`: a problem has to have exactly one solution."""
    found = list(values)
    assert len(found) == 1, found
    return found[0]


def _parts(fraction):
    """Numerator plus denominator, in lowest terms."""
    exact = Fraction(int(sp.numer(fraction)), int(sp.denom(fraction)))
    return exact.numerator + exact.denominator


def _area(points):
    """The area of a polygon in the plane, by the shoelace formula."""
    pairs = zip(points, [*points[1:], points[0]], strict=True)
    return sp.simplify(abs(sum(p[0] * q[1] - q[0] * p[1] for p, q in pairs)) / 2)


def _digit_stream():
    for number in itertools.count(1):
        yield from str(number)


# Easy


def solve_01():
    litres = 0
    for day in ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]:
        for _crossing in range(11 if day in {"Sat", "Sun"} else 7):
            litres += 9
    return litres


def solve_02():
    a, b = sp.symbols("a b")
    found = _only(sp.linsolve([5 * a - 2 * b - 64, a + b - 45], a, b))
    return found[0] * found[1]


def solve_03():
    return max(n for n in range(100, 1000) if n % 13 == 5 and n % 17 == 5)


def solve_04():
    signals = itertools.product(range(6), repeat=4)
    return sum(all(p != q for p, q in itertools.pairwise(signal)) for signal in signals)


def solve_05():
    courtyard = set(itertools.product(range(26), range(19)))
    large = set(itertools.product(range(-2, 28), range(-2, 21)))
    return len(large - courtyard)


def solve_06():
    lamps = list(range(920))
    for share in [Fraction(3, 8), Fraction(1, 5)]:
        sold = share * len(lamps)
        assert sold.denominator == 1
        del lamps[: int(sold)]
    return len(lamps)


def solve_07():
    x = sp.symbols("x")
    f = sp.Poly(x**2 - 7 * x + 11, x)
    return f.compose(f).eval(9)


def solve_08():
    return sum(d for d in range(2, 209, 2) if 208 % d == 0)


def solve_09():
    members = range(11)
    return sum(
        chair not in team for chair in members for team in itertools.combinations(members, 2)
    )


def solve_10():
    h = sp.symbols("h", positive=True)
    half = _only(sp.solve(21**2 + h**2 - 29**2, h))
    return _area([(21, 0), (0, half), (-21, 0), (0, -half)])


def solve_11():
    x = sp.symbols("x")
    return _only(sp.solve((8 * sp.Integer(47) + x) / 9 - 44, x))


def solve_12():
    first, step = sp.symbols("first step")
    terms = [first + k * step for k in range(30)]
    found = _only(sp.solve([terms[3] - 31, terms[10] - 87], [first, step], dict=True))
    return terms[29].subs(found)


def solve_13():
    return next(n for n in itertools.count(1) if sp.integer_nthroot(252 * n, 3)[1])


def solve_14():
    purse = ["copper"] * 6 + ["silver"] * 9
    draws = list(itertools.permutations(purse, 2))
    return _parts(Fraction(sum(p == q for p, q in draws), len(draws)))


def solve_15():
    x, y = sp.symbols("x y")
    ends = sp.solve([x**2 + y**2 - 41**2, y - 9], [x, y])
    assert len(ends) == 2
    return _area([(0, 0), *ends])


def solve_16():
    first, last = 5 * 60 + 50, 22 * 60 + 10
    trams = [minute for minute in range(first, last + 1) if (minute - first) % 14 == 0]
    assert trams[-1] == last
    return len(trams)


def solve_17():
    r, s, c = sp.symbols("r s c")
    x = sp.symbols("x")
    same = sp.Poly((x - r) * (x - s) - (x**2 - 38 * x + c), x).coeffs()
    return _only(sp.solve([*same, r - s - 12], [r, s, c], dict=True))[c]


def solve_18():
    return sum(n % 4 == 0 and n % 7 != 0 for n in range(1, 1001))


def solve_19():
    return sum(0 not in (order[0], order[-1]) for order in itertools.permutations(range(6)))


def solve_20():
    hole = set(itertools.product(range(2, 5), range(3, 6)))
    block = itertools.product(range(8), range(9), range(10))
    return sum((x, y) not in hole for x, y, _z in block)


# Middling


def solve_21():
    return len("".join(str(page) for page in range(1, 401) if page % 5 != 0))


def solve_22():
    a, b, c = sp.symbols("a b c")

    def value(x):
        return x**3 + a * x**2 + b * x + c

    found = _only(sp.linsolve([value(2) - 5, value(4) - 17, value(7) - 50], a, b, c))
    return value(12).subs(dict(zip([a, b, c], found, strict=True)))


def solve_23():
    return sum(math.gcd(n, 140) == 10 for n in range(1, 3001))


def solve_24():
    codes = itertools.product("1234", repeat=5)
    return sum(code.count("1") == 2 and "4" in code for code in codes)


def solve_25():
    x, y = sp.symbols("x y", real=True)
    legs = [x**2 + y**2 - 25**2, (x + 22 - 50) ** 2 + y**2 - 17**2]
    corner = _only(point for point in sp.solve(legs, [x, y]) if point[1] > 0)
    return _area([(0, 0), (50, 0), (corner[0] + 22, corner[1]), corner])


def solve_26():
    level = Fraction(0)
    for minute in range(15):
        level += Fraction(1, 36) + Fraction(1, 45)
        if minute < 10:
            level -= Fraction(1, 60)
    return _only(litres for litres in range(1, 2000) if litres * level == 497)


def solve_27():
    x = sp.symbols("x", real=True)
    return _only(sp.solve(sp.sqrt(x + 105) - sp.sqrt(x - 84) - 7, x))


def solve_28():
    digits = "".join(str(n) for n in range(100, 151))
    assert len(digits) == 153
    return int(digits) % 999


def solve_29():
    choices = itertools.permutations(range(1, 13), 3)
    return sum(
        all(abs(p - q) - 1 >= 2 for p, q in itertools.combinations(seats, 2)) for seats in choices
    )


def solve_30():
    a, b, c, d = (sp.Point(*p) for p in [(0, 0), (20, 0), (20, 20), (0, 20)])
    e = c + (d - c) * sp.Rational(5, 20)
    assert c.distance(e) == 5
    p = _only(sp.Segment(a, b.midpoint(c)).intersection(sp.Segment(b, e)))
    return _parts(abs(sp.Triangle(a, b, p).area))


def solve_31():
    def after_three_years(birds):
        count = Fraction(birds)
        for _year in range(3):
            count = count - count * Fraction(20, 100) + 90
        return count

    return _only(birds for birds in range(5000) if after_three_years(birds) == 706)


def solve_32():
    return sum(x for x in range(-1000, 1001) if abs(x - 11) + abs(x - 25) <= 40)


def solve_33():
    return next(
        n for n in itertools.count(21, 21) if sum(n % d == 0 for d in range(1, n + 1)) == 10
    )


def solve_34():
    words = {"".join(letters) for letters in itertools.permutations("COCONUT")}
    return sum("CC" not in word and "OO" not in word for word in words)


def solve_35():
    x = sp.symbols("x", positive=True)
    p, r = (0, 9), (0, 0)
    apart = _only(sp.solve(x**2 + (25 - 9) ** 2 - (25 + 9) ** 2, x))
    return _area([p, r, (apart, 0), (apart, 25)])


def solve_36():
    return sum(int(digit) for digit in str((10**40 + 3) * (10**25 - 6)))


def solve_37():
    a, b, c, value = sp.symbols("a b c value")
    conditions = [a * c - b**2, a + b + c - 30, a**2 + b**2 + c**2 - 600, value - (c - a) ** 2]
    basis = sp.groebner(conditions, a, b, c, value)
    return basis.reduce(value)[1]


def solve_38():
    return sum(n for n in range(1, 106) if (n * n + n) % 35 == 0)


def solve_39():
    routes = 0
    for rights in itertools.combinations(range(11), 6):
        x = y = 0
        visited = set()
        for step in range(11):
            x, y = (x + 1, y) if step in rights else (x, y + 1)
            visited.add((x, y))
        assert (x, y) == (6, 5)
        routes += not visited & {(2, 1), (4, 4)}
    return routes


def solve_40():
    corners = [(4 * sp.cos(k * sp.pi / 3), 4 * sp.sin(k * sp.pi / 3)) for k in range(6)]
    middles = [
        tuple((p + q) / 2 for p, q in zip(corners[k], corners[k + 1], strict=True))
        for k in (0, 2, 4)
    ]
    return sp.simplify(_area(middles) ** 2)


# Hard


def solve_41():
    # A second at a time; the assertion makes sure that no meeting falls between two seconds.
    a = b = gap = 0
    direction = 1
    for second in itertools.count(1):
        a += 7 * direction
        b -= 3
        gap += abs(7 * direction + 3)
        assert gap <= 160
        if gap == 160:
            assert (a - b) % 160 == 0
            if a % 160 == 0:
                return second
            gap = 0
            direction = -direction


def solve_42():
    x = sp.symbols("x")

    def step(value):
        return (value - 1) / value

    # The function exists: this one satisfies the equation everywhere.
    f = sp.Lambda(x, 30 * (x - 2 * step(x) + 4 * step(step(x))))
    assert sp.simplify(f(x) + 2 * f(step(x)) - 270 * x) == 0
    # And the equation alone fixes the value, through the orbit of 1/3.
    orbit = [sp.Rational(1, 3)]
    while step(orbit[-1]) not in orbit:
        orbit.append(step(orbit[-1]))
    values = {point: sp.Symbol(f"f{i}") for i, point in enumerate(orbit)}
    equations = [values[point] + 2 * values[step(point)] - 270 * point for point in orbit]
    found = _only(sp.linsolve(equations, *values.values()))[0]
    assert found == f(orbit[0])
    return found


def solve_43():
    return sum((pow(3, n) + n * n) % 13 == 0 for n in range(1, 5001))


def solve_44():
    strings = ("".join(letters) for letters in itertools.product("ABC", repeat=8))
    return sum("CC" not in text and not re.search("A(?!B)", text) for text in strings)


def solve_45():
    x, y = sp.symbols("x y", real=True)

    def corner(from_a, from_c, side):
        circles = [x**2 + y**2 - from_a**2, (x - 65) ** 2 + y**2 - from_c**2]
        found = _only(point for point in sp.solve(circles, [x, y]) if side * point[1] > 0)
        return sp.Point(*found)

    a, c = sp.Point(0, 0), sp.Point(65, 0)
    b, d = corner(39, 52, -1), corner(60, 25, 1)
    assert sp.Polygon(a, b, c, d).is_convex()
    p = _only(sp.Segment(a, c).intersection(sp.Segment(b, d)))
    return _parts(sp.Line(c, d).distance(p))


def solve_46():
    x = Fraction(1, 27) + Fraction(1, 41)
    total = 0
    for _place in range(200):
        x = 10 * (x - math.floor(x))
        total += math.floor(x)
    return total


def solve_47():
    term, product = Fraction(4, 3), Fraction(1)
    for _n in range(161):
        product *= term
        term = (3 * term - 1) / (term + 1)
    assert product.denominator == 1
    return product.numerator


def solve_48():
    return next(k for k in itertools.count(1) if int("1" * k) % 1323 == 0)


def solve_49():
    @cache
    def red_first(red, green, blue):
        if red == 0:
            return Fraction(1)
        if green == 0 or blue == 0:
            return Fraction(0)
        return Fraction(
            red * red_first(red - 1, green, blue)
            + green * red_first(red, green - 1, blue)
            + blue * red_first(red, green, blue - 1),
            red + green + blue,
        )

    return _parts(red_first(7, 5, 4))


def solve_50():
    plane = sp.Plane((18, 0, 24), (0, 18, 24), (24, 0, 12))
    corners = list(itertools.product([0, 24], repeat=3))
    section = set()
    for p, q in itertools.combinations(corners, 2):
        if sum(u != v for u, v in zip(p, q, strict=True)) == 1:
            section.update(plane.intersection(sp.Segment3D(p, q)))
    # The area of a convex polygon is the sum of the triangles from an inner point to its sides;
    # its sides are the pairs of corners that lie on a common face of the cube.
    middle = sum(section, sp.Point3D(0, 0, 0)) / len(section)
    sides = [
        (p, q)
        for p, q in itertools.combinations(section, 2)
        if any(u == v and u in (0, 24) for u, v in zip(p.args, q.args, strict=True))
    ]
    assert len(sides) == len(section)
    crosses = [sp.Matrix(p - middle).cross(sp.Matrix(q - middle)) for p, q in sides]
    return sum(cross.norm() for cross in crosses) / 2


def solve_51():
    squares = [k * k for k in range(100)]
    distances = [min(abs(n - square) for square in squares) for n in range(1, 2001)]
    return sum(distance > 0 and distance % 5 == 0 for distance in distances)


def solve_52():
    x, y, k, value = sp.symbols("x y k value")
    condition = x**2 + x * y + y**2 - 14
    target = x**2 - 4 * x * y + 7 * y**2
    lagrange = [sp.diff(target - k * condition, v) for v in (x, y)]
    basis = sp.groebner([*lagrange, condition, value - target], x, y, k, value, order="lex")
    extreme = _only(g for g in basis.exprs if g.free_symbols == {value})
    values = sp.real_roots(sp.Poly(extreme, value))
    return sp.simplify(sp.expand(max(values) * min(values)))


def solve_53():
    return sum((2**a * 3**b) % 7 == 1 for a in range(46) for b in range(91))


def solve_54():
    ways = 0
    for w, x in itertools.product(range(27), repeat=2):
        for y in range(27 - w - x):
            z = 26 - w - x - y
            ways += w < x and y < z
    return ways


def solve_55():
    a, b, c = sp.Point(0, 0), sp.Point(1, 0), sp.Point(0, 1)
    d = b + (c - b) * sp.Rational(1, 4)
    e = c + (a - c) * sp.Rational(1, 3)
    f = a.midpoint(b)
    lines = [sp.Line(a, d), sp.Line(b, e), sp.Line(c, f)]
    corners = [_only(p.intersection(q)) for p, q in itertools.combinations(lines, 2)]
    return _parts(abs(sp.Triangle(*corners).area / sp.Triangle(a, b, c).area))


def solve_56():
    return sum(digit in "13579" for digit in itertools.islice(_digit_stream(), 1500))


def solve_57():
    x, z = sp.symbols("x z")
    polynomial = x**6 - 5 * x**4 + 11 * x**2 + 4 * x - 18
    # The polynomial in z whose roots are the six numbers: its constant term is their product.
    transformed = sp.Poly(sp.resultant(polynomial, z - (x**2 + x + 1), x), z)
    assert transformed.degree() == 6
    return transformed.eval(0) / transformed.LC()


def solve_58():
    return sum(a * b % 140 == 0 for a in range(1, 141) for b in range(1, 141))


def solve_59():
    return sum(
        all((p + q) % 3 for p, q in itertools.pairwise(row))
        for row in itertools.permutations(range(1, 8))
    )


def solve_60():
    r, height = sp.symbols("r height", positive=True)
    down = _only(sp.solve(height**2 + 24**2 - 25**2, height))
    # The chord lies on the line y = 0, from (0, 0) to (48, 0); the centre is above its midpoint.
    centre, inner = sp.Point(24, down), sp.Point(12, r)
    touching = sp.Eq((inner.x - centre.x) ** 2 + (inner.y - centre.y) ** 2, (25 - r) ** 2)
    radius = _only(found for found in sp.solve(touching, r) if found < 25)
    x, y = sp.symbols("x y", real=True)
    circles = [
        (x - 24) ** 2 + (y - down) ** 2 - 25**2,
        (x - 12) ** 2 + (y - radius) ** 2 - radius**2,
    ]
    return _parts(_only(sp.solve(circles, [x, y]))[1])


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_answer_is_recomputed(row):
    solve = globals()["solve_" + row["id"].removeprefix("mini-")]
    assert str(solve()) == row["answer"]


def test_ids_are_numbered_and_unique():
    assert [row["id"] for row in ROWS] == [f"mini-{n:02d}" for n in range(1, 61)]
    assert len({row["problem"] for row in ROWS}) == 60


def test_levels_and_subjects_are_balanced():
    assert [row["level"] for row in ROWS] == [level for level in LEVELS for _ in range(20)]
    assert [row["subject"] for row in ROWS] == SUBJECTS * 12
    kinds = Counter((row["level"], row["subject"]) for row in ROWS)
    assert kinds == dict.fromkeys(itertools.product(LEVELS, SUBJECTS), 4)


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_fields_are_complete(row):
    assert set(row) == FIELDS
    assert all(isinstance(value, str) and value.strip() == value != "" for value in row.values())
    assert re.fullmatch(r"0|[1-9]\d{0,2}", row["answer"])
    for text in (row["problem"], row["solution"]):
        assert text.count("$") % 2 == 0
        assert text.count("{") == text.count("}")
    assert row["solution"].count(r"\boxed") == 1
    assert row["solution"].endswith(rf"$\boxed{{{row['answer']}}}$")
    assert r"\boxed" not in row["problem"]


def test_answers_are_spread_out():
    answers = [int(row["answer"]) for row in ROWS]
    assert max(Counter(answers).values()) <= 2
    assert sum(answer >= 500 for answer in answers) >= 20
    assert len({answer // 100 for answer in answers}) == 10

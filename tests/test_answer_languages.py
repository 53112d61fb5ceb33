r"""Answers as models write them in other languages, with units, scales, parts and denials.

Each case was read or judged wrongly once.
"""

from __future__ import annotations

import pytest

from scale_dspy.grading.answers import equal, find_answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Die Lösung ist $6$ oder $-6$. Die Antwort ist $6$ oder $-6$.", "6 or -6"),
        ("Les solutions sont $x = 4$ et $x = -9$.", "x = 4 and x = -9"),
        ("Las soluciones son $x = 4$ y $x = -9$.", "x = 4 and x = -9"),
        ("Корни: 4 и -9.", "4 и -9"),
        ("Lösung: $L = \\{4, -9\\}$", "L = \\{4, -9\\}"),
        ("Die Werte sind \\boxed{4} und \\boxed{9}.", "4, 9"),
        ("解为 \\boxed{4} 和 \\boxed{9}。", "4, 9"),
        (r"\boxed{4}\boxed{9}", "4, 9"),
        (r"\boxed{4} \quad \boxed{9}", "4, 9"),
        (r"The largest is \boxed{9} and the smallest is \boxed{4}.", "9, 4"),
        ("**Part A:** \\boxed{4}\n**Part B:** \\boxed{9}", "4, 9"),
        ("\\boxed{4}\n\n\\boxed{9}", "9"),
        (r"Not \boxed{4} but \boxed{9}.", "9"),
        ("#### 步骤 1：计算\n总数是 35。", "35"),
        ("#### 35<|end▁of▁sentence|>", "35"),
        ("<reflection>34</reflection><output>35</output>", "35"),
        ("So there are 35 (not 36) beads.", "35"),
        (r"The answer is $\frac15$, not $\frac16$.", r"\frac15"),
        ("The answer is D, it doesn't make sense for it to be A.", "D"),
        ("The answer is 1/4 of 60, which is 15.", "15"),
        ("一共有**35颗**珠子。", "35"),
        ("合計は3万円です。", "3万"),
        ("It takes 4h 20min", "4h 20min"),
        ("He planted 3/4 of 80", "3/4 of 80"),
        ("The box is 6 x 9.", "6 x 9"),
        ("So 12 out of the 20 students passed.", "12 out of the 20"),
        ("She needs at least 6.", "at least 6"),
        ("至少 6", "至少 6"),
        ("The answer isn't 6.", None),
        ("5 + 6 = 11 ✓", "5 + 6 = 11"),
        ("→ 11", "11"),
    ],
)
def test_the_whole_answer_is_read(reply: str, answer: str | None) -> None:
    assert find_answer(reply) == answer


@pytest.mark.parametrize(
    ("pred", "gold"),
    [
        ("7 kg", "7000 g"),
        ("80 s", r"\frac{4}{3} min"),
        ("3 L", "3000 mL"),
        ("2 Stunden", "120 Minuten"),
        ("£8", "8 pounds"),
        ("350円", "¥350"),
        ("6万", "60000"),
        ("2 Millionen", "2000000"),
        ("3 тысячи", "3000"),
        ("3 oder -8", "3, -8"),
        ("3 ou -8", "3, -8"),
        ("3 и -8", "3, -8"),
        ("3 & 8", "3, 8"),
        ("both 3 and -8", "3, -8"),
        ("]-2;6[", "(-2, 6)"),
        (r"]-\infty;6]", r"x \le 6"),
        ("1.234.567", "1234567"),
        ("1.234,50", "1234.5"),
        ("4_500_000", "4500000"),
        ("4,75 €", "4.75"),
        ("0.(27)", r"\frac{3}{11}"),
        ("keine Lösung", r"\emptyset"),
        ("无解", r"\emptyset"),
        (r"\binom73", "35"),
        ("7C3", "35"),
        ("2.5 x 10^3", "2500"),
        (r"3/5 or 60\%", "0.6"),
        ("3/5, or equivalently 0.6", "0.6"),
        ("a/b/c", r"\frac{a}{bc}"),
        ("Fläche = 35", "35"),
        ("AB + BC = x = 35", "35"),
        ("Option C", "C"),
        (r"(E)\ 6", "6"),
        (r"8^{\circ}\mathrm{C}", "8"),
        ("35\\", "35"),
        (
            r"\begin{pmatrix}1 & 0\end{pmatrix} + \begin{pmatrix}2 & 5\end{pmatrix}",
            r"\begin{pmatrix}3 & 5\end{pmatrix}",
        ),
    ],
)
def test_equal_in_other_words(pred: str, gold: str) -> None:
    assert equal(pred, gold)
    assert equal(gold, pred)


@pytest.mark.parametrize(
    ("pred", "gold"),
    [
        ("5 Stunden", "5 Minuten"),
        ("5 heures", "5 minutes"),
        ("5 часов", "5 минут"),
        ("5 小时", "5 分钟"),
        ("5 元", "5 美元"),
        (r"36^\circ", r"\$36"),
        ("£3", "3 pence"),
        ("84万", "84"),
        ("84 Millionen", "84"),
        ("84 mil", "84"),
        ("84 тысяч", "84"),
        ("ABC", "CBA"),
        ("3 and", "3"),
        ("84 mod 5", "84"),
        ("84 times 2", "84"),
        ("al menos 84", "84"),
        ("84 Drittel", "84"),
    ],
)
def test_different_in_other_words(pred: str, gold: str) -> None:
    assert not equal(pred, gold)
    assert not equal(gold, pred)


@pytest.mark.parametrize(
    ("pred", "value"),
    [
        ("Il reste 35 pièces.", 35),
        ("Quedan 35 monedas", 35),
        ("Осталось 35 монет", 35),
        ("残りは35枚です", 35),
        ("总数 = 35", 35),
        ("35 times", 35),
        ("35 minutes (0.6 hours)", 35),
        (r"35 \text{ (since 30+5=35)}", 35),
        (r"\text{It takes 35 days}", 35),
        (r"\text{The total is -35 dollars.}", -35),
        (r"35\, \mathrm{N}", 35),
        ("6万", 60000),
        ("$35/hour", 35),
        ("35 apples (15 red and 20 green)", 35),
        ("the 35 apples", 35),
        ("35?", 35),
    ],
)
def test_an_integer_in_a_sentence_is_read(pred: str, value: int) -> None:
    assert equal(pred, str(value), kind="integer")
    assert not equal(pred, str(value + 1), kind="integer")

"""Answers that are the same and answers that aren't, by both orders, with the settings that change it."""

from __future__ import annotations

import pytest

from rewards.answer import GradingConfig, equivalent

# fmt: off
SAME = [
    ("42", "\uff14\uff12"),
    ("x\\neq 3", "3\\neq x"), ("2x+y<3", "y<3-2x"),
    ("-2", "\\sqrt[3]{-8}"), ("5", "-(-5)"), ("x+3", "x--3"), ("x^{1/3}", "\\sqrt[3]{x}"),
    ("6x\\sqrt{x}", "6\\sqrt{x^3}"), ("\\sqrt{xy}", "\\sqrt{x}\\sqrt{y}"), ("\\sqrt{x-5}", "\\sqrt{-5+x}"),
    ("\\sqrt{-x^2-1}", "i\\sqrt{x^2+1}"), ("\\arcsin(x/9)", "\\frac{\\pi}{2}-\\arccos(x/9)"),
    ("\\begin{pmatrix}1\\\\(2)\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"), ("42", "42."),
    ("1000", "1,000"), ("42", "042"), ("1000", "1e3"), ("0.001", "1E-3"), ("-5", "\u22125"), ("-5", "- 5"),
    ("0", "-0"), ("1/3", "0.3333333333"), ("3/2", "1 1/2"), ("2*sqrt(3)", "2\\sqrt{3}"),
    ("\\sqrt{2}", "\\sqrt 2"), ("\\pi", "\u03c0"), ("5", "\\text{5}"), ("5", "(5)"), ("50\\%", "50%"),
    ("yes", "Yes."), ("A", "a"), ("A", "(A)"), ("the derivative", "derivative"), ("{1,2,3}", "{3,2,1}"),
    ("\\{1,2,3\\}", "{3,2,1}"), ("x=5", "5"), ("5", "$x=5$"), ("y=2x+3", "2x-y+3=0"),
    ("4x-5y=-50", "5y-4x=50"), ("x>3", "(3,\\infty)"), ("3<x\\le 5", "(3,5]"),
    ("x<2 \\text{ or } x>3", "(-\\infty,2)\\cup(3,\\infty)"), ("x \\in [-2,7]", "-2\\le x\\le 7"),
    ("\\frac{\\pi}{2}", "\\pi/2"), ("30^\\circ", "30 degrees"), ("30^\\circ", "30"),
    ("\\sin 30^\\circ + x", "x+\\frac12"), ("\\sin(\\pi/6)x", "x/2"), ("e^{\\ln 3}x", "3x"),
    ("\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}"), ("\\sqrt{50}", "5\\sqrt{2}"),
    ("\\sqrt[3]{16}", "2\\sqrt[3]{2}"), ("\\frac{\\sqrt{6}+\\sqrt{2}}{4}", "\\cos 15^\\circ"),
    ("i^2x", "-x"), ("(1+i)^2", "2i"), ("\\frac{1+i}{1-i}", "i"), ("a^2-b^2", "(a-b)(a+b)"),
    ("\\frac{x^2-1}{x-1}", "x+1"), ("|x|", "\\sqrt{x^2}"), ("2^{10}", "1024"), ("\\$18", "18 dollars"),
    ("18", "$18"), ("$18.00", "18"), ("60 mph", "60 mph"), ("50%", "1/2"), ("0.5", "50\\%"),
    ("12:30", "12:30 PM"), ("4:30 p.m.", "\\text{4:30 PM}"), ("3:1", "3 : 1"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{bmatrix} 1 & 2 \\\\ 3 & 4 \\end{bmatrix}"),
    ("\\begin{pmatrix}1\\\\2\\\\3\\end{pmatrix}", "(1,2,3)"), ("52_8", "52_{8}"), ("1.5\\times10^3", "1500"),
    ("6.02\\times 10^{23}", "6.02e23"), ("1.8 billion", "1800000000"), ("2 million", "2,000,000"),
    ("10\\,000", "10000"), ("1{,}234", "1234"), ("x=2,y=3", "y=3, x=2"), ("\\frac{3}{4}", "0.75"),
    ("\\frac{-3}{4}", "-\\frac34"), ("-\\frac{3}{4}", "\\frac{3}{-4}"), ("f(x)=2x+1", "2x+1"),
    ("1,2", "2,1"), ("70, 110", "70,110"), ("n!", "n!"), ("\\binom{n}{2}", "\\binom{n}{2}"),
    ("\\pm 3", "3,-3"), ("x=\\pm 3", "-3, 3"), ("1\\pm\\sqrt 5", "1+\\sqrt5, 1-\\sqrt5"),
    ("\\{1\\pm\\sqrt{5},-2\\}", "-2, 1-\\sqrt{5}, 1+\\sqrt{5}"), ("-\\infty", "-\\infty"),
    ("\\emptyset", "\\{\\}"), ("\\text{ellipse}", "ellipse"), ("east", "East"),
    ("\\text{June 20}", "June 20"), ("\\text{Navin}", "Navin"), ("8 \\frac{1}{2}", "17/2"),
    ("8.5", "8 \\frac{1}{2}"), ("\\frac{1}{2},\\frac{1}{3}", "1/2, 1/3"), ("0.1", "0.10000000000000001"),
    ("33.3", "33.300000000000004"), ("3R^2", "3 R^2"), ("\\frac{11+9a}{20}", "0.55+0.45a"),
    ("2k+2", "2(k+1)"), ("(2,1)", "( 2 , 1 )"), ("5", "**5**"), ("5", "5\n"),
    ("\\frac{270}7\\text{ degrees}", "270/7"), ("15\\mbox{ cm}^2", "15 cm^2"),
    ("864 \\mbox{ inches}^2", "864 square inches"), ("5.4 \\text{ cents}", "5.4"),
    ("11,\\! 111,\\! 111,\\! 100", "11111111100"), ("2\\sin x\\cos x", "\\sin(2x)"),
    ("\\tan x", "\\frac{\\sin x}{\\cos x}"), ("\\ln(x^2)", "\\ln(x^2)"), ("2^{x+1}", "2\\cdot 2^x"),
    ("\\frac{e^x+e^{-x}}{2}", "\\cosh x"), ("x^{1/2}", "\\sqrt{x}"), ("(x,y)=(1,2)", "(1,2)"),
    ("\\text{(C)}", "C"), ("C", "\\textbf{(C)}"), ("120^{\\circ}", "120\xb0"),
    ("\\arctan(1/2)", "\\tan^{-1}(1/2)"), ("1,234,567", "1234567"), ("$1,234.50", "1234.5"),
    ("12 inches", "12 in"), ("3 hours", "3"), ("5 apples", "5"), ("5", "5 apples per day"),
    ("\\frac{1}{2}x", "x/2"), ("[1,2]", "1\\le x\\le2"), ("1/2", "\\frac{2}{4}"), ("\\frac{7}{2}", "3.5"),
    ("\\sqrt{2}", "1.41421356"), ("2\\pi", "6.283185307"), ("No solution", "no solution"),
    ("12", "12 \\text{ cm}"), ("12", "$12\\text{ cm}$"), ("\\boxed{5}", "5"), ("x^2+y^2=13", "y^2+x^2=13"),
    ("x^2+y^2=13", "2x^2+2y^2=26"), ("10:00 am", "10:00 AM"), ("(-\\infty,\\infty)", "(-\\infty, +\\infty)"),
    ("\\mathbb{R}", "\\mathbb{R}"), ("1.0", "1"), ("\\frac{a}{b}", "a/b"), ("1\\frac{1}{2}", "3/2"),
    ("\\overline{AB}", "\\overline{AB}"), ("$\\frac{1}{2}$", "\\(\\frac12\\)"), ("5,6", "5 and 6"),
    ("5 or 6", "5, 6"), ("2x", "2 \\cdot x"), ("2x", "2*x"), ("x^2", "x**2"),
    ("14", "14 \\text{ years old}"), ("20", "20 students"), ("y=\\frac12x", "y=0.5x"), ("-2", "x=-2"),
    ("\\left(\\frac{1}{2},3\\right)", "(0.5,3)"), ("\\sec^2 x", "1+\\tan^2 x"), ("8", "2^3"),
    ("4", "\\sqrt{16}"), ("5", "|-5|"), ("\\frac{2\\sqrt{3}}{3}", "\\frac{2}{\\sqrt{3}}"),
    ("\\frac12", "\\frac{1}{2}"), ("40\\%", "0.4"), ("-x+3", "3-x"), ("(a+b)/2", "\\frac{a+b}{2}"),
    ("abc", "abc"), ("x_1", "x_{1}"), ("x_1+x_2", "x_2+x_1"), ("\\theta", "\u03b8"),
    ("10 base 2", "10 base 2"), ("2\\text{ hours }30\\text{ minutes}", "2 hours 30 minutes"),
    ("18", "$18 per day"), ("$18 per day", "18 dollars per day"), ("60", "60 km/h"),
    ("60 km/h", "60\\text{ km/h}"), ("5", "5\\text{ m/s}"), ("5\\text{ m}^2", "5 square meters"),
    ("5\\text{ m}", "5 meters"), ("\\lbrace 1,2\\rbrace", "\\{2,1\\}"),
    ("\\langle 1,2,3\\rangle", "(1,2,3)"), ("e^{i\\pi}+x", "x-1"), ("10^{-3}", "0.001"),
    ("3/4", "3/4 of the cake"), ("x = 2 or x = -3", "x=-3, x=2"), ("x\\geq 5", "5\\leq x"),
    ("0.33", "33\\%"), ("\\left\\{1,2\\right\\}", "\\{1, 2\\}"), ("x \\in \\{1,2\\}", "\\{2,1\\}"),
    ("2+\\sqrt{2} \\text{ or } 2-\\sqrt{2}", "2\\pm\\sqrt2"), ("\\text{I and II}", "I and II"),
    ("1.1^{\\circ}", "1.1"), ("1 cm^2", "1\\text{ cm}^2"), ("12", "12 \\, \\text{cm}"),
    ("12", "12~\\mathrm{cm}"), ("\\$1,000,000", "1000000"), ("1 million dollars", "\\$1,000,000"),
    ("\\frac{1}{2} \\text{ hour}", "0.5"), ("\\sqrt{3}/2", "\\frac{\\sqrt3}{2}"), ("7", "7."), ("7", "$7$."),
    ("7", "\\(7\\)"), ("7", "\\[7\\]"), ("-7", "-7.0"), ("(0,3)", "(0, 3)"), ("\\frac{3}{5}", "3 / 5"),
    ("2x^2", "2x^{2}"), ("(3, \\pi/2)", "\\left(3,\\frac{\\pi}{2}\\right)"),
    ("\\frac{\\sqrt{5}-1}{2}", "\\frac{-1+\\sqrt{5}}{2}"), ("-\\frac{b}{2a}", "\\frac{-b}{2a}"),
    ("\\cot x", "\\frac{1}{\\tan x}"), ("\\frac{1}{1+x^2}", "(1+x^2)^{-1}"),
    ("x=1, y=2, z=3", "z=3, x=1, y=2"), ("4\\pi r^2", "4 \\pi r^{2}"), ("a_n = 2n+1", "2n+1"),
    ("k = -1/2", "-0.5"), ("y=3", "y = 3.0"), ("{-2, 1}", "-2,1"), ("10:30 \\text{ AM}", "10:30 a.m."),
    ("\\text{Thursday}", "thursday"), ("12\\frac12", "12.5"), ("100\\text{ cm}", "100 centimeters"),
    ("3,\\! 500", "3500"), ("5/2", "2.5"), ("5/2", "2\\frac{1}{2}"), ("5/2", "2 1/2"),
    ("\\frac{5}{2}\\pi", "2.5\\pi"), ("\\ln 8", "3\\ln 2"), ("\\log_2 3", "\\frac{\\ln 3}{\\ln 2}"),
    ("\\log_4 9", "\\log_2 3"), ("16\\sqrt{2}\\text{ units}", "16\\sqrt{2}"),
    ("\\sin 20^\\circ", "\\cos 70^\\circ"), ("\\frac{n(n+1)}{2}", "\\frac{n^2+n}{2}"),
    ("(n+1)!/n!", "(n+1)!/n!"),
    ("\\begin{bmatrix}1 & 0\\\\ 0 & 1\\end{bmatrix}", "\\begin{pmatrix} 1&0 \\\\ 0&1 \\\\ \\end{pmatrix}"),
    ("$\\frac{1}{3}$", "0.333333"), ("\\frac{22}{7}", "3.142857142857"), ("P(x)=x^2", "x^2"),
    ("-1 \\le x < 2", "[-1,2)"), ("x>1", "1<x"), ("x \\neq 0", "x\\ne0"), ("1,2,3", "3, 2, and 1"),
    ("36", "The final answer is $36$."), ("36", "The answer is: 36"), ("36", "Answer: 36"), ("36", "**36**"),
    ("\\boxed{36}", "\\boxed{36.0}"), ("10", "10\\ \\text{units}"), ("three", "Three"), ("2^{n}-1", "2^n-1"),
    ("n^2", "n \\times n"), ("6.25\\%", "0.0625"), ("\\sqrt[3]{2}", "2^{1/3}"),
    ("1/3", "0.\\overline{3}"), ("1/6", "0.1\\dot{6}"), ("-12/99", "-0.\\bar{12}"), ("5", "5 m"), ("5 meters", "5 m"),
    ("1,500", "1,500 g"), ("1+\\sin(x)^2", "2-\\cos^2 x"), ("x=5\\text{ cm}", "5 cm"), ("6\\times 7=42", "42"),
    ("10^{50}+\\pi", "\\pi+10^{50}"), ("x>3", "3<x<\\infty"), ("3 \\in A", "3 \\in A"), ("x<3", "-\\infty<x<3"),
    ("\\sqrt{\\frac{1}{2}}", "\\frac{\\sqrt{2}}{2}"), ("1-i", "-i+1"), ("\\cos^2 x - \\sin^2 x", "\\cos 2x"),
]
# fmt: on

# fmt: off
DIFFERENT = [
    ("1/3", "0.\\overline{4}"), ("1/3", "0.3\\overline{4}"), ("5 m", "5 x"), ("5 m", "5 g"), ("5x", "5 m"),
    ("5 m", "10"), ("3<e", "(3,\\infty)"), ("x>3", "y>3"), ("(1,2)", "(1,2)%"), ("50", "50% of the cake"),
    ("x=5", "x=5<6"), ("5x=7", "y=5x=7"),
    ("1", "\\sin(x)^2"), ("x+10^{-60}", "\\arcsin(\\sin x)"), ("20 10", "2010"), ("42", "41=42"), ("x=x", "y=2x"),
    ("1/3", "0.3333300"), ("\\{1,1,2\\}", "\\{1,2,2\\}"), ("5", "6=5=5+1"), ("6", "5=6"),
    ("\\pi^{90}+1", "\\pi^{90}+2"), ("5/2", "1\\frac{3}{2}"), ("5", "(" * 40 + "5" + ")" * 40),
    ("\\sqrt{x^2}", "x"), ("\\sqrt{x-5}", "\\sqrt{5-x}"), ("\\arcsin(\\sin x)", "x"), ("0.5", "0.05"),
    ("12", "21"), ("5", "-5"), ("1/2", "2/1"), ("3.14159", "3.14"), ("yes", "no"), ("A", "B"), ("0", ""),
    ("5 meters", "5 feet"), ("42", "41 or 42"), ("42", "42 or 43"), ("42", "not 42"), ("42", "42?"),
    
    ("x", "y"), ("x", "|x|"), ("x+1", "x-1"), ("(1,2)", "\\{1,2\\}"),
    ("(1,2)", "[1,2]"), ("[1,2)", "[1,2]"), ("(1,2)", "(2,1)"), ("x=5", "y=5"), ("52_8", "42"),
    ("52_8", "52_9"), ("52_8", "52"), ("1,234", "1.234"), ("42", "42%"), ("25\\%", "25"), ("1/3", "0.33"),
    ("\\pi", "3.14"), ("\\pi", "22/7"), ("\\sqrt2", "1.4"), ("123456.78", "123456.79"), ("100", "100.001"),
    ("x>3", "x\\ge3"), ("x>3", "x<3"), ("x>3", "3"), ("4:30 am", "4:30 pm"), ("3:1", "1:3"), ("abc", "acb"),
    ("cat", "act"), ("42", "42 (approximately)"), ("42", "about 42"), ("42", "42 maybe"), ("42", "x42"),
    ("42", "0x2A"), ("42", "4 2"), ("42", "42 43"), ("42", "42; 43"), ("42", "\\boxed{42} \\boxed{43}"),
    ("42", "\\boxed{}"), ("42", "It is not \\boxed{42}"), ("42", "\\boxed{42} (43)"),
    ("42", "The answer is not 42"), ("42", "The answer is 42 or 43"),
    ("42", "The answer is 41. The answer is 42."), ("1000", "10^{10^{10}}"), ("42", "{42, 43}"),
    ("1", "0.999999999"), ("1", "0.9999999999999999"), ("0", "0.0000001"), ("0", "1e-300"),
    ("42", "42+10^{-60}"), ("42", "42+\\sqrt{2}\\cdot 10^{-60}"), ("x", "x+10^{-60}"), ("x", "x+10^{-600}"),
    ("\\sqrt{2}", "\\sqrt{2}+10^{-80}"), ("\\sqrt 2", "\\cos(10^{-40})\\sqrt{2}"), ("1", "\\cos(10^{-40})"),
    ("x^2+2x+1", "x^2+2x+2"), ("2x+y=3", "2x+y=4"), ("2x+y<3", "2x+y>3"), ("2x+y<3", "2x+y\\le3"),
    ("1<x<3", "1<x<4"), ("x>1 and x<3", "x>1 or x<3"), ("42", "42 is wrong"), ("42", "42 squared"),
    ("4", "4 hundred"), ("42", "42 minus one"), 
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}"),
    ("\\begin{pmatrix}1&2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"), ("1,2", "1,2,2"),
    ("1,1", "1"), ("3", "3,3"), ("\\infty", "-\\infty"), ("1/0", "2/0"),
    ("\\tan 90^\\circ x", "\\tan 270^\\circ x"), ("5 cents", "5 dollars"), ("\\$5", "5 cents"),
    ("10", "10 percent"), ("e", "2.718"), ("i", "1"), ("-1", "i"), ("\\ln 2", "\\log 2"),
    ("f(2)<f(1)", "f(1)<f(2)"), ("42", "nan"), ("42", "inf"), ("inf", "42"), ("42", "None"), ("None", "nan"),
    ("x", "X"), ("12", "1,2"), ("5", "5,0"), ("June 20", "June 21"), ("2/3", "3/2"), ("42", "forty-two"),
    ("2AB", "2"), ("2", "2AB"), ("2", "2 k"), ("6", "6 x"), ("0", "x-x+1"), ("10", "0b1010"),
    ("3", "3 and a half"), ("1", "1st"), ("5", "5'"), ("42", "the number 42 or so"),
    ("\\frac{1}{2}", "\\frac{1}{2"), ("x", "2x/2+1-1.0001"), ("1", "sin(x)^2+cos(x)^2+1"),
    ("2 hours", "2 minutes"), ("1.5", "1,5"), ("42", "42\u200b"), ("42", "42\x00"),
    ("42", "4\xb2"), ("2", "2 hours 30 minutes"), ("5", "5 and a half"), ("5", "5 1"), ("60", "60 km/2"),
    ("42", "\\approx 42"), ("42", "~42"), ("42", "between 41 and 43"), ("42", "42 \\pm 1"),
    ("42", "42 \\pm 0"), ("42", "\\pm 42"), ("42", "41<x<43"), ("42", "x \\in \\{41,42\\}"),
    ("42", "either 41 or 42"), ("42", "After some calculation we get 42"), ("42", "42 or so"),
    ("42", "42 apples or 43"), ("42", "forty two"), ("42", "XLII"), ("42", "42...?"), ("42", "42!"),
    ("42", "-(-(-42))"), ("42", "|42i|+1"), ("3", "3\\text{ or }4"), ("3", "3 \\text{ but not } 4"),
    ("7", "7^\\circ C or 8"), ("x=5", "5=y"), ("5", "5=5=6"), ("5", "5=6"), ("5", "4+1=5=6"),
    ("10", "10 \\text{ mod } 3"), ("A", "A and B"), ("A", "A/B"), ("B", "8"), ("O", "0"), ("l", "1"),
    ("\\frac{1}{3}", "0.3"), ("\\frac{2}{3}", "0.6667"), ("100", "99.99999999"), ("1e10", "1e10+1"),
    ("2", "\\sqrt{5}"), ("0.1", "0.11"), ("(1,2)", "(1,2,3)"),
    ("(1,2]", "[1,2)"), ("\\{1\\}", "1,1"), ("[1,2]\\cup[3,4]", "[1,2]"), ("1/2", "1/2/1/1/3"), ("x", "2x"),
    ("\\sin x", "\\sin y"), ("\\log x", "\\ln x"), ("0", "\\emptyset"), ("0", "\\{\\}"), ("7:30", "7:31"),
    ("1:2", "2:4.5"), ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}2\\\\1\\end{pmatrix}"),
    ("5 kg", "5 g"), ("5\\%", "5"), ("5", "0.05\\%"), ("$5", "\xa35"), ("5", "5..6"), ("5", "5-6"),
    ("5", "5\u20136"), ("1-2", "1 to 2"), ("2010", "20 10"), ("2^{10}", "2^{1}0"), ("1/2", "1 2"),
    ("12345", "1234 5"), ("yes", "yes or no"), ("yes", "not yes"), ("10", "10^{1.0000001}"),
    ("2", "2.0000001"), ("1,000", "1"), ("1,000", "1,0,0,0"), ("x+y", "xy"),
    ("\\frac{x}{y}", "\\frac{y}{x}"), ("3", "3'"), ("3", '3"'), 
]
# fmt: on

# A gold may leave arithmetic undone, an answer may not.
# fmt: off
UNDONE = [
    ("3/2", "1 3/2"), ("42", "6*7"), ("42", "6\\cdot 7"), ("42", "40+2"), ("42", "84/2"), ("649", "3245/5"),
    ("28", "\\binom{8}{2}"), ("42", "42/1/1+0"), ("12", "12 \\cdot 1"), ("12", "4!/2"), ("17", "17 - 0"),
    ("17", "0+17"), ("120", "5!"),
]
# fmt: on


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_same(gold, answer):
    assert equivalent(gold, answer) and equivalent(answer, gold)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different(gold, answer):
    assert not equivalent(gold, answer) and not equivalent(answer, gold)


@pytest.mark.parametrize(("gold", "answer"), UNDONE)
def test_undone(gold, answer):
    assert not equivalent(gold, answer) and equivalent(answer, gold)


@pytest.mark.parametrize(
    ("settings", "gold", "answer"),
    [
        ({"percent": "optional"}, "25\\%", "25"),
        ({"decimal_comma": True}, "4,2", "4.2"),
        ({"rounded": True}, "8/3", "2.67"),
        ({"rounded": True}, "\\pi", "3.14"),
        ({"relative_tolerance": 1e-2}, "1/3", "0.333"),
        ({"unevaluated": True}, "42", "6 \\cdot 7"),
        ({"unevaluated": True}, "120", "5!"),
    ],
)
def test_a_setting_lets_in_what_the_default_keeps_out(settings, gold, answer):
    assert not equivalent(gold, answer)
    assert equivalent(gold, answer, GradingConfig(**settings))
    assert equivalent(answer, gold, GradingConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "gold", "answer"),
    [
        ({"units": "required"}, "64 square feet", "64"),
        ({"sentences": False}, "42", "The answer is 42."),
        ({"sentences": False}, "42", "So it is \\boxed{42}"),
    ],
)
def test_a_setting_keeps_out_what_the_default_lets_in(settings, gold, answer):
    assert equivalent(gold, answer)
    assert not equivalent(gold, answer, GradingConfig(**settings))


def test_settings_do_not_let_in_more_than_they_say():
    assert equivalent("1,234", "1234", GradingConfig(decimal_comma=True))
    assert equivalent("25%", "0.25", GradingConfig(percent="optional"))
    assert not equivalent("42%", "4.2", GradingConfig(percent="optional"))
    assert not equivalent("8/3", "2.66", GradingConfig(rounded=True))  # cut off, not rounded
    assert not equivalent("5", "5.001", GradingConfig(rounded=True, relative_tolerance=0.1))  # integers are exact
    assert not equivalent("42", "43", GradingConfig(unevaluated=True))

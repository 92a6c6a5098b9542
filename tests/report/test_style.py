from __future__ import annotations

from modereg.report.style import legible, method_colors


def test_a_method_has_one_colour() -> None:
    names = ["base", "plain", "regularised", "codes_only", "mine", "regularised_wide"]
    colors = method_colors(names)
    assert len(set(colors.values())) == len(names)
    for subset in (["regularised"], ["plain", "base"], ["regularised_wide", "plain"]):
        assert method_colors(subset) == {name: colors[name] for name in subset}


def test_a_run_below_a_known_method_has_its_colour() -> None:
    known = method_colors(["plain", "regularised"])
    below = method_colors(["base", "runs/plain", "plain/s0", "regularised/s0"])
    assert below["plain/s0"] == known["plain"]
    assert below["regularised/s0"] == known["regularised"]
    several = method_colors(["plain", "plain/s0", "plain/s1", "plain/s2", "plain_a", "other"])
    assert len(set(several.values())) == len(several)


def test_titles_are_legible() -> None:
    for color in method_colors(["base", "plain", "codes_only", "bmd", "one", "two"]).values():
        red, green, blue = (int(legible(color)[i : i + 2], 16) / 255 for i in (1, 3, 5))
        luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
        assert 1.05 / (luminance + 0.05) > 3  # WCAG's ratio for large text

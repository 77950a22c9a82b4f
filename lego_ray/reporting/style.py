"""Colors of a page, light and dark. Figures are drawn in the light ones.

A style sheet turns each color of a figure to the dark one of the same name, so within a theme no two
are equal.
"""

# Each theme's colors by name. Text has a contrast of 4.5 at least against its background, and marks
# of 3; a test measures them. `c0` to `c6` tell series apart for the color-blind too, by lightness as
# well as hue, and each also has a separate shape.
LIGHT = {
    "ground": "#ffffff",
    "panel": "#f4f6f8",
    "ink": "#1b1f24",
    "muted": "#545d68",
    "line": "#d5dae0",
    "axis": "#7d8793",
    "link": "#0b5cad",
    "c0": "#0067b0",
    "c1": "#c24a00",
    "c2": "#00795c",
    "c3": "#a03d8a",
    "c4": "#7a5b00",
    "c5": "#40419e",
    "c6": "#67707b",
}
DARK = {
    "ground": "#14171b",
    "panel": "#1e2329",
    "ink": "#e9edf1",
    "muted": "#aab4bf",
    "line": "#363d46",
    "axis": "#7f8a96",
    "link": "#7cbcff",
    "c0": "#5cb3f0",
    "c1": "#ff9d5c",
    "c2": "#35c39a",
    "c3": "#e491cb",
    "c4": "#dcb640",
    "c5": "#a8a8f4",
    "c6": "#a3adb8",
}
SERIES = tuple(f"c{number}" for number in range(7))
# Heat maps have a panel of their own, the same by day and by night, as their colors mean numbers; a
# white that is not the ground's.
PANEL = "#fefefe"

"""What holds for every view, whatever it shows: for eyes, for ears, for keys, on a phone."""


def check(test, browser):
    """Holds the view that is open to all of it."""
    test.assertEqual(browser.unnamed_controls(), [], "every control, table and part has a name")
    roles = browser.roles()
    for landmark in ("main", "banner", "navigation"):
        test.assertEqual(roles.get(landmark), 1, f"{landmark}: {roles}")
    test.assertEqual(browser.run("document.documentElement.lang"), "en")
    levels = browser.run("look.headings()")
    test.assertEqual(levels.count(1), 1, levels)
    skipped = [(a, b) for a, b in zip([0, *levels], levels) if b > a + 1]
    test.assertEqual(skipped, [], f"no level of headings is left out: {levels}")
    test.assertEqual(browser.run("look.twice()"), [], "an id is one element's")
    test.assertEqual(browser.run("look.untitled()"), 0, "every table says what it holds")
    test.assertEqual(browser.run("look.faint()"), [], "texts can be read")
    width = browser.run("document.documentElement.scrollWidth")
    window = browser.run("innerWidth")
    test.assertLessEqual(width, window, f"nothing is wider than the window: {browser.run('look.wide()')}")

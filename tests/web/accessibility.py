"""What holds for every view, whatever it shows: for eyes, for ears, for keys, on a phone."""

# Texts whose colours are too near each other: contrast of WCAG 2.2, 4.5 to 1, large text 3 to 1.
CONTRAST = """(() => {
  const parse = (color) => { const m = color.match(/[\\d.]+/g).map(Number); return { r: m[0], g: m[1], b: m[2], a: m[3] ?? 1 }; };
  const over = (top, under) => ({ r: top.r * top.a + under.r * (1 - top.a), g: top.g * top.a + under.g * (1 - top.a), b: top.b * top.a + under.b * (1 - top.a), a: 1 });
  const light = ({ r, g, b }) => { const f = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const back = (element) => { const layers = []; for (let one = element; one; one = one.parentElement) layers.push(parse(getComputedStyle(one).backgroundColor)); return layers.reverse().reduce((under, top) => over(top, under), { r: 255, g: 255, b: 255, a: 1 }); };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || element.closest('[hidden], script, noscript, .canvas, option') || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const under = back(element);
    const [a, b] = [light(over(parse(style.color), under)), light(under)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    const needed = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    if (ratio < needed) bad.push(`${ratio.toFixed(2)}: ${walker.currentNode.textContent.trim().slice(0, 40)} (${style.color} in ${element.tagName})`);
  }
  return bad;
})()"""

HEADINGS = "[...document.querySelectorAll('h1, h2, h3, h4')].filter((one) => one.checkVisibility()).map((one) => Number(one.tagName[1]))"
WIDE = "[...document.querySelectorAll('body *')].filter((one) => one.checkVisibility() && one.getBoundingClientRect().right > innerWidth + 1 && !one.closest('.u-wrap, pre, blockquote, .skip')).map((one) => one.tagName + '.' + one.className).slice(0, 5)"
IDS = "(() => { const ids = [...document.querySelectorAll('[id]')].map((one) => one.id); return ids.filter((id, index) => ids.indexOf(id) !== index); })()"


def check(test, browser):
    """Holds the view that is open to all of it."""
    test.assertEqual(browser.unnamed_controls(), [], "every control, table and part has a name")
    roles = browser.roles()
    for landmark in ("main", "banner", "navigation"):
        test.assertEqual(roles.get(landmark), 1, f"{landmark}: {roles}")
    test.assertEqual(browser.run("document.documentElement.lang"), "en")
    levels = browser.run(HEADINGS)
    test.assertEqual(levels.count(1), 1, levels)
    skipped = [(a, b) for a, b in zip([0, *levels], levels) if b > a + 1]
    test.assertEqual(skipped, [], f"no level of headings is left out: {levels}")
    test.assertEqual(browser.run(IDS), [], "an id is one element's")
    test.assertEqual(browser.run(CONTRAST), [], "texts can be read")
    test.assertLessEqual(browser.run("document.documentElement.scrollWidth"), browser.run("innerWidth"), f"nothing is wider than the window: {browser.run(WIDE)}")
    captions = browser.run("[...document.querySelectorAll('table')].filter((table) => !table.caption?.textContent.trim()).length")
    test.assertEqual(captions, 0, "every table says what it holds")

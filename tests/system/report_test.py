"""The page of `quietformer compare --out` in a headless Chromium: charts are drawn, nothing is asked of the network, the
console stays empty, hover and keyboard read values, light and dark, phone and desktop. Also what the command does with
its options and with damaged runs. Skips (77) without a Chromium of the distribution's packages."""
import copy
import json
import random
import shutil
import sys

import chromium
from harness import expect, folder, run, write_config

SIZES = [(1280, 900), (390, 844)]
HOSTILE = "</script><script>document.title='owned'</script>"

where = folder()
config = write_config(where / "tiny.yaml")


def train(name, seed, n):
    status, _, err = run("train", config, f"name={name}", f"train.seed={seed}", f"attention.n={n}", "train.steps=24", "train.eval_every=8",
                         "--run-dir", where / f"{name}-{seed}")
    expect(status == 0, f"train {name}: {err}")
    return where / f"{name}-{seed}"


def complete(directory):
    """What later versions of results.json may hold, and quantized.json, made up."""
    results, dice = json.loads((directory / "results.json").read_text()), random.Random(directory.name)
    for site in results["activations"].values():
        if "max_abs" in site:
            site.setdefault("infinity_norm", site["max_abs"] / 2)
            site.setdefault("histogram", {"bins_per_octave": 2, "lowest_exponent": -16, "below": 3, "above": 0,
                                          "counts": [dice.randrange(1000) for _ in range(64)]})
    results.setdefault("outlier_dimensions", {"count": 3, "channels": [1, 2, 3]})
    results.setdefault("attention", {f"blocks.{layer}.attention": {"first_token_mass": [0.25, 0.5], "entropy": [1.5, 2.0]} for layer in (0, 1)})
    results["environment"]["note"] = HOSTILE
    (directory / "results.json").write_text(json.dumps(results))
    sites = [{"name": f"blocks.{layer}.{part}", "contribution": dice.random() / 100} for layer in (0, 1) for part in ("attention.qkv", "mlp.down")]
    (directory / "quantized.json").write_text(json.dumps({"checkpoint": "best", "split": "validation", "tokens": 100, "schemes": [
        {"scheme": "W8A8", "weights": {"bits": 8, "per": "tensor"}, "activations": {"bits": 8, "range": "minmax"},
         "loss": {"float": 2.0, "quantized": 2.5}, "bits_per_byte": {"float": 2.8, "quantized": 3.5, "gap": 0.7}, "sites": sites}]}))


runs = [train("soft0", 1, 0), train("soft0", 2, 0), train("soft1", 1, 1)]
results = json.loads((runs[0] / "results.json").read_text())
expect("version" in results["environment"] and "cpu" in results["environment"]["device"], f"environment: {results.get('environment')}")
for directory in runs:
    complete(directory)


def check_command():
    status, out, err = run("compare", *runs, "--json", "-")
    expect(status == 0 and len(json.loads(out)["variants"]) == 2 and err == "", f"--json -: {status} {err}")
    status, out, err = run("compare", *runs, "--no-aggregate", "--csv", "-")
    expect(status == 0 and "soft0 (soft0-2)" in out, f"--no-aggregate: {out[:300]}")
    status, out, err = run("compare", *runs, "--markdown", where / "a.md", "--json", where / "a.json")
    expect(status == 0 and "bits_per_byte/test" in out and "| Loss, test" in (where / "a.md").read_text(), f"files: {err}")
    status, out, err = run("compare", *runs, "--json", "-", "--csv", "-")
    expect(status == 2 and out == "", "two outputs to standard output are refused")
    status, out, err = run("compare", *runs, "--json", where / "absent/a.json")
    expect(status == 1 and "absent/a.json" in err, f"a file that cannot be written: {status} {err}")

    bad = where / "bad"
    shutil.copytree(runs[2], bad)
    for name in ("stats.h5", "log.jsonl", "quantized.json", "results.json"):
        whole = (bad / name).read_bytes()
        (bad / name).write_bytes(whole[:len(whole) * 2 // 3])
        status, out, err = run("compare", *runs, bad, "--json", "-")
        expect(status == 0 and err.count("\n") == 1 and f"bad/{name}" in err, f"cut {name}: {status} {err}")
        expect(len(json.loads(out)["runs"]) == (3 if name == "results.json" else 4), f"cut {name}: the others are compared")
        (bad / name).write_bytes(whole)
    status, out, err = run("compare", where / "nothing", where)
    expect(status == 2 and err.count("\n") == 3 and "nothing/results.json" in err, f"no run readable: {status} {err}")


def make_page():
    """The page's path; None where this build makes none, which has to be said in one line."""
    page = where / "report.html"
    status, out, err = run("compare", *runs, "--out", page)
    if status == 2 and "libjs-chart.js" in err:
        expect(err.count("\n") == 1 and not page.exists(), f"without Chart.js: {err}")
        return None
    expect(status == 0 and "soft1" in out, f"--out: {status} {err}")
    return page


def check_page(browser, page, width, height, scheme):
    what = f"{width} px, {scheme}"
    browser.open(page.as_uri(), width, height, scheme)
    asked = [event["request"]["url"] for event in browser.seen("Network.requestWillBeSent")]
    outside = [url for url in asked if url != page.as_uri() and not url.startswith("data:")]
    expect(page.as_uri() in asked and not outside, f"{what}: requests: {asked}")
    said = [*browser.seen("Runtime.exceptionThrown"), *browser.seen("Runtime.consoleAPICalled"), *browser.seen("Log.entryAdded")]
    expect(not said, f"{what}: console: {said}")
    expect(browser.evaluate("document.title").endswith("runs compared"), f"{what}: title")
    expect(HOSTILE in browser.evaluate("document.getElementById('runs').textContent"), f"{what}: text from files is text")
    sections = browser.evaluate("[...document.querySelectorAll('section')].map(s => s.id)")
    expect(sections == ["summary", "training", "over-time", "sites", "sizes", "heads", "quantisation", "config", "runs"], f"{what}: {sections}")
    across = browser.evaluate("document.documentElement.scrollWidth")  # innerWidth grows with it on a phone
    expect(across <= width, f"{what}: the page is {across} px wide")
    dark = browser.evaluate("getComputedStyle(document.body).backgroundColor").strip("rgb()").split(",")
    expect((int(dark[0]) < 128) == (scheme == "dark"), f"{what}: background {dark}")

    # Every canvas holds the colours of both variants, so lines or bars were drawn.
    blank = browser.evaluate("""(() => {
      const paints = [0, 1].map(i => {
        const hex = getComputedStyle(document.documentElement).getPropertyValue(`--v${i}`).trim();
        return [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16));
      });
      return [...document.querySelectorAll('canvas')].map(canvas => {
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return paints.map(([r, g, b]) => {
          let count = 0;
          for (let i = 0; i < data.length; i += 4) count += data[i] === r && data[i + 1] === g && data[i + 2] === b && data[i + 3] === 255;
          return count;
        });
      });
    })()""")
    expect(len(blank) >= 7 and all(min(counts) > 10 for counts in blank), f"{what}: pixels of the two variants per chart: {blank}")
    heat = browser.evaluate("document.querySelectorAll('#sites td[style]').length")
    expect(heat >= 16, f"{what}: {heat} coloured cells")


def check_hover(browser):
    for chart in ("#training canvas", "#over-time canvas", "#sizes canvas", "#quantisation canvas"):
        browser.evaluate(f"document.querySelector('{chart}').scrollIntoView({{block: 'center', behavior: 'instant'}})")
        browser.settle()
        x, y = browser.evaluate(f"(r => [r.x + r.width * 0.6, r.y + r.height * 0.4])(document.querySelector('{chart}').getBoundingClientRect())")
        before = browser.evaluate(f"Chart.getChart(document.querySelector('{chart}')).tooltip.opacity")
        browser.move(x, y)
        opacity, lines = browser.evaluate(f"(t => [t.opacity, t.body.flatMap(b => b.lines)])(Chart.getChart(document.querySelector('{chart}')).tooltip)")
        expect(before == 0 and opacity == 1 and [line.split(":")[0] for line in lines] == ["soft0", "soft1"], f"hover over {chart}: {lines}")
        browser.move(2, 2)


def check_keyboard(browser, page):
    browser.open(page.as_uri(), 1280, 900, "light")
    reached, order = {}, []
    for _ in range(80):
        browser.key("Tab", 9)
        name, ring = browser.evaluate("""(e => [e === document.body ? '' : e.id || e.getAttribute('aria-label') || e.textContent.trim().slice(0, 30) || e.tagName,
            e === document.body ? '' : getComputedStyle(e).outlineStyle])(document.activeElement)""")
        if name == "" and order:
            break
        order.append(name)
        reached[name] = ring
    for wanted in ("theme", "soft0", "soft1", "Summary of all variants", "Table of this chart"):
        expect(wanted in reached, f"Tab does not reach {wanted}: {order}")
        expect(reached[wanted] == "solid", f"{wanted} has no focus ring: {reached[wanted]}")
    for tag in ("canvas", "select", "input"):
        expect(browser.evaluate(f"[...document.querySelectorAll('{tag}')].every(e => e.tabIndex === 0 && (e.ariaLabel || e.labels?.length))"),
               f"every {tag} is reachable and has a name")
    # Arrow keys read a chart's values aloud; a key of a variant hides it everywhere; details open.
    browser.evaluate("document.querySelector('#training canvas').focus()")
    browser.key("End", 35)
    spoken = browser.evaluate("document.getElementById('spoken').textContent")
    expect(spoken.startswith("step 24: soft0 "), f"End on a chart says: {spoken}")
    browser.key("ArrowLeft", 37)
    expect(browser.evaluate("document.getElementById('spoken').textContent").startswith("step 16: "), "the left arrow goes back")
    browser.evaluate("document.querySelector('#key button').focus()")
    browser.key(" ", 32, " ")
    shown = browser.evaluate("[...document.querySelectorAll('#training canvas')].map(c => [...new Set(Chart.getChart(c).data.datasets.map(d => d.label))])")
    expect(all(labels == ["soft1"] for labels in shown) and shown, f"hidden variant: {shown}")
    browser.evaluate("document.querySelector('#training details summary').focus()")
    browser.key("Enter", 13, "\r")
    rows = browser.evaluate("document.querySelectorAll('#training details table tbody tr').length")
    expect(rows == 3, f"the validation chart's table has {rows} rows")


def check_controls(browser, page):
    browser.open(page.as_uri(), 1280, 900, "light")
    theme = "document.documentElement.dataset.theme"
    seen = []
    for _ in range(3):
        browser.evaluate("document.getElementById('theme').click()")
        seen.append(browser.evaluate(theme))
    expect(seen == ["light", "dark", "light"], f"the theme button: {seen}")
    choose = "((s, v) => {{ s.value = v; s.dispatchEvent(new Event('change')); }})(document.querySelectorAll('{}')[{}], '{}')"
    title = "document.querySelector('#over-time figcaption .note').textContent"
    browser.evaluate(choose.format("#over-time select", 1, "1"))
    expect(browser.evaluate(title) == "blocks.1.output", f"layer: {browser.evaluate(title)}")
    browser.evaluate(choose.format("#over-time select", 0, "embedding"))
    expect(browser.evaluate(title) == "embedding", f"site: {browser.evaluate(title)}")
    before = browser.evaluate("document.querySelector('#sites td').textContent")
    browser.evaluate(choose.format("#sites select", 0, "max_abs"))
    expect(before != browser.evaluate("document.querySelector('#sites td').textContent"), "the heat map's quantity")
    said = [*browser.seen("Runtime.exceptionThrown"), *browser.seen("Runtime.consoleAPICalled")]
    expect(not said, f"controls: console: {said}")


def check_sparse_page(browser):
    """Runs without any of the optional parts say so, section by section."""
    bare = where / "bare"
    shutil.copytree(runs[2], bare)
    for name in ("stats.h5", "quantized.json", "log.jsonl"):
        (bare / name).unlink()
    results = copy.deepcopy(json.loads((bare / "results.json").read_text()))
    for key in ("attention", "environment", "outlier_dimensions"):
        results.pop(key)
    results["activations"] = {}
    (bare / "results.json").write_text(json.dumps(results))
    page = where / "bare.html"
    status, _, err = run("compare", bare, "--out", page)
    expect(status == 0, f"a bare run: {err}")
    browser.open(page.as_uri(), 390, 844, "dark")
    said = [*browser.seen("Runtime.exceptionThrown"), *browser.seen("Runtime.consoleAPICalled")]
    expect(not said, f"a bare run: console: {said}")
    text = browser.evaluate("document.getElementById('main').innerText")
    for reason in ("No run has a readable log.jsonl", "No run has a readable stats.h5", "No run has statistics of activations",
                   "No run has histograms", "No run has statistics of single heads", "No run has a quantized.json"):
        expect(reason in text, f"a bare run's page does not say: {reason}")


check_command()
page = make_page()
if page is None:
    print("SKIPPED: this build makes no HTML report (no Chart.js)")
    sys.exit(77)
path = chromium.find()
if path is None:
    print("SKIPPED: no Chromium (Debian: apt-get install chromium; a snap cannot be driven); the command itself passed")
    sys.exit(77)
browser = chromium.Browser(path)
try:
    for width, height in SIZES:
        for scheme in ("light", "dark"):
            check_page(browser, page, width, height, scheme)
            if width > 1000 and scheme == "light":
                check_hover(browser)
    check_keyboard(browser, page)
    check_controls(browser, page)
    check_sparse_page(browser)
finally:
    browser.close()
shutil.rmtree(where)
print("the report page: passed")

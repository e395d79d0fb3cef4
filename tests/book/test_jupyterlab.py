"""The quickstart as most people meet it: opened in JupyterLab, in a real browser, all cells run.

It needs Debian's `chromium` and Playwright: `make browser` installs the latter and runs this.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.book.book_rules import ROOT
from tests.book.page_rules import SPHINX_ONLY

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="make browser installs Playwright")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt install chromium"),
    pytest.mark.timeout(400),
]
SCREEN = {"width": 1200, "height": 20_000}  # JupyterLab draws only the cells that are on the screen

OUTPUTS = """() => [...document.querySelectorAll(".jp-Cell .jp-OutputArea-child")].map(child => ({
    kind: child.querySelector("[data-mime-type]")?.dataset.mimeType,
    text: child.querySelector(".jp-OutputArea-output")?.innerText.trim(),
    pictures: child.querySelectorAll("img, svg").length}))"""
PROMPTS = '() => [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")].map(prompt => prompt.textContent)'
PROSE = '() => [...document.querySelectorAll(".jp-RenderedMarkdown")].map(cell => cell.innerText).join("\\n")'


@pytest.fixture
def lab(tmp_path):
    """JupyterLab, alone on a port of 127.0.0.1, on a copy of the quickstart; the address of that page."""
    shutil.copy(ROOT / "book" / "quickstart.ipynb", tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={tmp_path}", "--ServerApp.port_retries=0"]
    folders = {"HOME": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
    shown = {name: value for name, value in os.environ.items() if name != "MNISTDIST_PROGRESS"}
    log = tmp_path / "lab.log"
    with open(log, "wb") as file:
        server = subprocess.Popen(command, env=shown | folders, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token={token}", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/lab/tree/quickstart.ipynb?token={token}"
    finally:
        server.terminate()
        server.wait(30)


def run_all_cells(page, cells):
    """Choose Run, Run All Cells; wait until the last has its number. Returns whether a bar was seen meanwhile."""
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
    bar, deadline = False, time.monotonic() + 240
    page.wait_for_function('() => document.body.innerText.includes("[*]:")')
    while (prompts := page.evaluate(PROMPTS))[-1] != f"[{cells}]:" or "[*]:" in prompts:  # folded cells have none
        bar = bar or page.locator(".jp-OutputArea-output progress").count() > 0
        assert time.monotonic() < deadline, f"cells still running: {prompts}"
        time.sleep(0.2)
    return bar


def test_the_quickstart_runs_in_jupyterlab_and_reads_well_there(lab, tmp_path):
    stored = json.loads((ROOT / "book" / "quickstart.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    printing = sum(bool(cell["outputs"]) for cell in code)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport=SCREEN)
            page.goto(lab)
            page.wait_for_selector(".jp-RenderedMarkdown h1", timeout=90_000)
            bar = run_all_cells(page, len(code))
            page.wait_for_timeout(1000)  # the last output may be drawn after its cell has its number
            outputs, prose = page.evaluate(OUTPUTS), page.evaluate(PROSE)
            page.screenshot(path=tmp_path / "quickstart.png")
        finally:
            browser.close()
    assert bar, "no progress was shown while it trained"
    assert len(outputs) >= printing > 15
    assert [output for output in outputs if output["kind"] in (None, "application/vnd.jupyter.stderr")] == []
    assert [output for output in outputs if output["kind"] == "application/vnd.jupyter.error"] == []
    assert [output for output in outputs if not output["text"] and not output["pictures"]] == [], "an empty block"
    assert "Summary" in prose and "Exercise 1" in prose
    assert re.findall(SPHINX_ONLY, prose, re.M) == []

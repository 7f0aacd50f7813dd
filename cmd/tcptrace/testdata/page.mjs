// Drives a real browser over the page of the agent: page.mjs URL MODULES PICTURES OWNER
//
// MODULES has playwright-core and axe-core. It says "ready" when the page is live; what
// OWNER then leaves in CLOSE_WAIT it waits for. Pictures of the page go to PICTURES. It
// ends with status 1 and words where something is wrong.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const [url, modules, pictures, owner] = process.argv.slice(2);
const { chromium } = createRequire(join(modules, "node_modules/"))("playwright-core");
const axe = readFileSync(join(modules, "node_modules/axe-core/axe.min.js"), "utf8");

const wrong = [];
function must(holds, what) {
	if (!holds) wrong.push(what);
}

const browser = await chromium.launch({
	executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
	args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync"],
});

async function open(width, height, colorScheme) {
	const context = await browser.newContext({ viewport: { width, height }, colorScheme });
	const page = await context.newPage();
	page.on("console", (m) => must(!["error", "warning"].includes(m.type()), `console: ${m.text()}`));
	page.on("pageerror", (e) => wrong.push(`page: ${e.message}`));
	page.on("request", (r) => must(r.url().startsWith(url), `asks elsewhere: ${r.url()}`));
	await page.goto(url);
	await page.waitForFunction(() => document.getElementById("link").textContent === "live");
	return page;
}

// inspect looks for what keeps people from using the page. The policy does not hold for
// the debugger.
async function inspect(page, when) {
	await page.evaluate(axe);
	const { violations } = await page.evaluate(() => globalThis.axe.run());
	for (const v of violations) wrong.push(`axe, ${when}: ${v.id}: ${v.nodes.map((n) => n.html.slice(0, 200)).join("\n  ")}`);
}

const text = (page, selector) => page.locator(selector).innerText();

try {
	const page = await open(1400, 1000, "light");
	await page.click("#state-CLOSE_WAIT");
	console.log("ready");
	const begun = Date.now();
	await page.waitForFunction((name) => document.getElementById("owners").textContent.includes(name), owner);
	await page.waitForFunction((name) => document.getElementById("stuck-list").textContent.includes(name), owner);
	console.log(`the leak is there after ${Date.now() - begun} ms`);

	// What the diagram shows.
	await page.waitForFunction(() => /^3\b/.test(document.querySelector("#state-CLOSE_WAIT .number").textContent));
	must(await page.locator("#edge-ESTABLISHED-CLOSE_WAIT").getAttribute("class") === "edge segment", "the edge to CLOSE_WAIT is not drawn as used");
	must((await text(page, "#lost")) === "0", "lost is not in sight");
	// The evidence is of the walk that comes next.
	await page.waitForFunction(() => document.getElementById("stuck-list").textContent.includes("has not called close on fd"));

	// The mouse: a state, then one of its connections.
	await page.click("#load");
	await page.locator("#sockets button").first().click();
	await page.waitForFunction(() => !document.getElementById("ladder-picture").hidden);
	must(await page.evaluate(() => document.getElementById("ladder-picture").naturalWidth > 0), "the ladder is not drawn");
	must((await page.locator("#ladder-text").textContent()).includes("CLOSE_WAIT"), "the ladder has no text");
	await inspect(page, "with a ladder");
	await page.screenshot({ path: join(pictures, "ladder.png") });
	await page.keyboard.press("Escape");
	must(!(await page.locator("#ladder").isVisible()), "Escape does not close the ladder");

	// The keyboard alone, from the top of the page.
	const keys = await open(1400, 1000, "dark");
	await keys.keyboard.press("Tab");
	must(await keys.evaluate(() => document.activeElement.className === "skip"), "Tab does not begin with the link to the machine");
	await keys.keyboard.press("Enter");
	const met = [];
	for (let i = 0; i < 20 && met.at(-1) !== "state-LISTEN"; i++) {
		await keys.keyboard.press("Tab");
		met.push(await keys.evaluate(() => document.activeElement.id));
	}
	must(met.at(-1) === "state-LISTEN", `Tab comes by ${met}`);
	await keys.keyboard.press("Enter");
	must((await text(keys, "#chosen-heading")) === "LISTEN", "Enter does not choose the state");
	must(await keys.evaluate(() => document.activeElement.id === "chosen-heading"), "what was chosen has not got the focus");
	must((await keys.locator("#state-LISTEN").getAttribute("aria-pressed")) === "true", "what was chosen is not told of");

	for (const [width, height] of [[1400, 1000], [390, 844]]) {
		for (const scheme of ["light", "dark"]) {
			const one = await open(width, height, scheme);
			await one.click("button.choose[data-state=CLOSE_WAIT]");
			await one.waitForSelector("#sockets tr");
			must(await one.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `at ${width} the page is wider than the screen`);
			await inspect(one, `${width} ${scheme}`);
			await one.screenshot({ path: join(pictures, `page-${width}-${scheme}.png`), fullPage: true });
			await one.context().close();
		}
	}
} catch (error) {
	wrong.push(error.message);
}
await browser.close();
if (wrong.length > 0) {
	console.error([...new Set(wrong)].join("\n"));
	process.exit(1);
}

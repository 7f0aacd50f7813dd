"use strict";
// Draws what the agent sends. All that comes from there is put in as text, never as markup.
(() => {
	const svgSpace = "http://www.w3.org/2000/svg";
	const by = (id) => document.getElementById(id);
	const number = new Intl.NumberFormat("en");
	const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
	const unknown = "–";

	let state = null; // the latest
	let chosen = "ESTABLISHED";
	let arrived = 0; // when the latest did, by performance.now
	let source = null;

	// element makes one: attributes of the name class and of others, children or text.
	function element(name, attributes = {}, ...children) {
		const e = document.createElement(name);
		for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
		e.append(...children);
		return e;
	}
	function drawn(name, attributes, text) {
		const e = document.createElementNS(svgSpace, name);
		for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
		if (text !== undefined) e.textContent = text;
		return e;
	}
	// put sets the text, if it is another: what is the same is not said again.
	function put(e, text) {
		if (e.textContent !== text) e.textContent = text;
	}
	// rows has as many children as there are things, and fills each.
	function rows(parent, things, make, fill) {
		while (parent.children.length > things.length) parent.lastElementChild.remove();
		things.forEach((thing, i) => {
			if (i === parent.children.length) parent.append(make());
			fill(parent.children[i], thing);
		});
	}
	const cells = (classes) => () => {
		const row = element("tr");
		for (const c of classes) row.append(element("td", c ? { class: c } : {}));
		return row;
	};
	function fillCells(row, texts) {
		texts.forEach((text, i) => put(row.children[i], text));
	}
	function perSecond(rate) {
		if (rate === undefined) return unknown;
		return rate > 0 && rate < 0.1 ? "<0.1" : compact.format(rate);
	}
	const clock = (time) => new Date(time).toLocaleTimeString("en-GB");
	const span = (s) => (s ? s.text : unknown);

	function sockets(s) {
		if (s.sockets === undefined) return unknown;
		return (s.sockets_at_least ? "≥" : "") + number.format(s.sockets);
	}

	const ownerOf = (o) => (o.name === "-" ? "not known" : o.name);
	const countOf = (n, text) => `${text} ${n === 1 ? "socket" : "sockets"}`;

	function showTotals() {
		for (const [id, value] of [
			["transitions", state.transitions], ["closed", state.closed], ["illegal", state.illegal], ["stuck", state.stuck],
			["gaps", state.gaps], ["lost", state.lost], ["forgotten", state.forgotten],
		]) {
			put(by(id), number.format(value));
			const bad = value > 0 && id !== "transitions" && id !== "closed";
			by(id).parentElement.classList.toggle("bad", bad);
		}
		put(by("rate"), perSecond(state.transitions_per_second));

		const notes = [];
		if (state.lost > 0) notes.push(["lost", "Records were lost: the numbers are too low, and where a record is missing nothing is judged."]);
		if (!state.walked) notes.push(["", "How many sockets there are is not known yet: those from before are still looked for."]);
		if (state.in_kernel) {
			const at = state.sockets_at ? "as of the last look at them, " + clock(state.sockets_at) : "not known yet";
			notes.push(["", `Counted in the kernel: sockets, owners and what is stuck are ${at}; median times are exact to 9 %; ladders lack what was only counted.`]);
		}
		for (const n of state.notices) notes.push([n.kind === "lost" ? "lost" : "", (n.time ? clock(n.time) + " " : "") + n.text]);
		rows(by("notices"), notes, () => element("p"), (p, [kind, text]) => {
			p.className = kind;
			put(p, text);
		});
	}

	function showMachine() {
		const stuck = new Set(state.stuck_groups.map((g) => g.state));
		for (const s of state.states) {
			const node = by("state-" + s.name);
			const median = s.dwell && s.dwell.p50 ? s.dwell.p50.text : "";
			let text = s.sockets === undefined ? (s.name === "CLOSED" ? "" : unknown) : (s.sockets_at_least ? "≥" : "") + compact.format(s.sockets);
			if (median) text += " · " + median;
			put(node.querySelector(".number"), text);
			let about = "sockets now, and the median time in this state";
			if (stuck.has(s.name)) about += "; some are stuck";
			if (node.getAttribute("aria-description") !== about) node.setAttribute("aria-description", about);
			node.classList.toggle("has-stuck", stuck.has(s.name));
		}
		for (const e of state.edges) {
			const edge = by(`edge-${e.from}-${e.to}`);
			if (!edge) continue; // is in the table
			const kind = e.illegal > 0 ? "illegal" : edge.dataset.kind;
			if (!edge.classList.contains(kind)) {
				edge.setAttribute("class", "edge " + kind);
				edge.querySelector("path:not(.casing)").setAttribute("marker-end", `url(#tcpfsm-${kind})`);
			}
			const lines = edge.querySelectorAll("tspan");
			const texts = [compact.format(e.count)];
			if (e.per_second > 0) texts.push(perSecond(e.per_second) + "/s");
			if (e.p50) texts.push(e.p50.text);
			const skip = edge.dataset.fill === "last" ? lines.length - texts.length : 0; // to be near the arrow
			lines.forEach((line, i) => put(line, texts[i - skip] || ""));
		}
	}

	function showTables() {
		for (const s of state.states) {
			const d = s.dwell || {};
			const most = s.owners.length > 0 ? `${ownerOf(s.owners[0])}: ${number.format(s.owners[0].sockets)}` : "";
			const row = by("row-" + s.name);
			[s.name === "CLOSED" ? "" : sockets(s), span(d.p50), span(d.p90), span(d.p99), span(d.max), most].forEach((text, i) => put(row.children[i + 1], text));
		}
		rows(by("edges"), state.edges, cells(["no-wrap", "no-wrap", "n", "n", "n", "n"]), (row, e) => {
			fillCells(row, [e.from, e.to, number.format(e.count), perSecond(e.per_second), span(e.p50), e.illegal > 0 ? number.format(e.illegal) : ""]);
			row.lastElementChild.classList.toggle("illegal", e.illegal > 0);
		});
	}

	const who = (f) => `${f.owner || "owner not known"} ${f.local} → ${f.remote}`;

	function ladderButton(f, text) {
		const b = element("button", { type: "button" }, text);
		b.addEventListener("click", () => openLadder(f));
		return b;
	}

	// finding keeps the button while it is of the same socket, so that it keeps the focus.
	function fillFinding(li, kind, f, head, evidence) {
		li.className = kind;
		if (li.children.length === 0) li.append(element("p"), element("p", { class: "evidence" }));
		put(li.children[0], head);
		put(li.children[1], evidence);
		const key = f.socket ? `${f.socket}/${f.generation}` : "";
		if (li.dataset.socket === key) return;
		li.dataset.socket = key;
		if (li.children[2]) li.children[2].remove();
		if (key) li.append(ladderButton(f, `Connection ${f.local} → ${f.remote}`));
	}

	function showFindings() {
		rows(by("stuck-list"), state.stuck_groups, () => element("li"), (li, g) => {
			const many = countOf(g.count, number.format(g.count));
			fillFinding(li, "stuck", g, `${g.state}: ${many} of ${g.owner || "an owner that is not known"}, the oldest for ${g.age} (limit ${g.limit})`, g.hint);
		});
		rows(by("illegal-list"), state.findings, () => element("li"), (li, f) => {
			fillFinding(li, "", f, `${clock(f.time)} ${f.from} → ${f.to}: ${who(f)}`, `${f.reason}${f.rule ? ` (${f.rule})` : ""}`);
		});
		by("stuck-part").hidden = state.stuck_groups.length === 0;
		by("illegal-part").hidden = state.findings.length === 0;
		const parts = [];
		parts.push(state.stuck === 0 ? "Nothing is stuck." : `${number.format(state.stuck)} stuck.`);
		parts.push(state.illegal === 0 ? "Nothing was illegal." : `${number.format(state.illegal)} illegal so far.`);
		put(by("news"), parts.join(" "));
	}

	function showHistogram(s) {
		const box = by("histogram");
		const list = s.histogram || [];
		const key = JSON.stringify(list);
		if (box.dataset.key === key) return;
		box.dataset.key = key;
		box.replaceChildren();
		if (list.length === 0) return;
		const height = 22, left = 150, most = Math.max(...list.map((b) => b.count));
		const svg = drawn("svg", { viewBox: `0 0 460 ${list.length * height}`, role: "img", "aria-label": `Distribution of the times in ${s.name}: ` +
			list.map((b) => `${b.from.text} to ${b.to.text}: ${b.count}`).join("; ") });
		list.forEach((b, i) => {
			const y = i * height;
			const width = b.count === 0 ? 0 : Math.max(2, 220 * b.count / most);
			svg.append(drawn("text", { x: left - 10, y: y + 15, "text-anchor": "end" }, `${b.from.text} – ${b.to.text}`));
			svg.append(drawn("rect", { x: left, y: y + 3, width, height: height - 6, rx: 2 }));
			svg.append(drawn("text", { x: left + width + 8, y: y + 15 }, number.format(b.count)));
		});
		box.append(svg);
	}

	function showChosen() {
		const s = state.states.find((one) => one.name === chosen);
		put(by("chosen-heading"), chosen);
		let about = s.sockets === undefined ? (chosen === "CLOSED" ? "No socket is in it. Below are those that were closed last." : "How many sockets are in it is not known yet.") :
			countOf(s.sockets, sockets(s)) + " now.";
		if (chosen === "SYN_RCVD") about += " Handshakes that are going on have no socket yet, and are not counted.";
		put(by("chosen-about"), about);
		rows(by("owners"), s.owners, cells(["wrap", "n"]), (row, o) => fillCells(row, [ownerOf(o), number.format(o.sockets)]));
		if (s.other_owners > 0) {
			const row = cells(["wrap", "n"])();
			fillCells(row, [`and ${number.format(s.other_owners)} more`, ""]);
			by("owners").append(row);
		}
		const d = s.dwell;
		let times = "None that is known has come to its end.";
		if (d && d.count > 0) times = `${number.format(d.count)} ${d.count === 1 ? "time" : "times"}: half up to ${d.p50.text}, 90 % up to ${d.p90.text}, 99 % up to ${d.p99.text}; from ${d.min.text} to ${d.max.text}.`;
		if (d && d.at_least > 0) times += ` Of ${number.format(d.at_least)} more only a lower bound is known.`;
		if (d && d.unknown > 0) times += ` Of ${number.format(d.unknown)} more nothing is known.`;
		put(by("dwell"), times);
		showHistogram(s);
	}

	function show() {
		showTotals();
		showMachine();
		showTables();
		showChosen();
		showFindings();
	}

	function choose(name, focus) {
		chosen = name;
		for (const node of document.querySelectorAll(".tcpfsm .state")) node.setAttribute("aria-pressed", String(node.id === "state-" + name));
		for (const button of document.querySelectorAll("button.choose")) button.setAttribute("aria-pressed", String(button.dataset.state === name));
		if (state) showChosen();
		put(by("chosen-heading"), chosen);
		loadSockets();
		if (focus) by("chosen-heading").focus();
	}

	// ask gets an answer of the agent, whose words are shown where it has none.
	async function ask(path) {
		const response = await fetch(path, { cache: "no-store" });
		if (!response.ok) throw new Error((await response.text()).trim() || response.statusText);
		return response;
	}

	async function loadSockets() {
		const name = chosen;
		put(by("sockets-about"), "looking …");
		let found;
		try {
			found = await (await ask("sockets.json?state=" + encodeURIComponent(name))).json();
		} catch (error) {
			found = { all: 0, sockets: [], error: error.message };
		}
		if (name !== chosen) return;
		const shown = found.sockets.length;
		put(by("sockets-about"), found.error || (found.all > shown ? `${number.format(shown)} of ${number.format(found.all)}, the ${name === "CLOSED" ? "youngest" : "oldest"}.` : countOf(shown, number.format(shown)) + "."));
		by("sockets").replaceChildren(...found.sockets.map((s) => {
			const row = cells(["no-wrap", "wrap", "no-wrap", "no-wrap", ""])();
			fillCells(row, [(s.age || unknown) + (s.stuck ? ", stuck" : ""), s.owner || "not known", s.local, s.remote]);
			if (s.illegal || s.stuck) row.children[0].classList.add("illegal");
			if (name !== "LISTEN" && s.socket) {
				const b = ladderButton(s, "Draw");
				b.setAttribute("aria-label", `Draw ${s.local} to ${s.remote}`);
				row.children[4].append(b);
			}
			return row;
		}));
	}

	async function openLadder(s) {
		const dialog = by("ladder"), picture = by("ladder-picture");
		const query = `?socket=${encodeURIComponent(s.socket)}&generation=${s.generation}`;
		put(by("ladder-heading"), `${s.local} → ${s.remote}`);
		put(by("ladder-text"), "");
		put(by("ladder-error"), "drawing …");
		picture.hidden = true;
		picture.removeAttribute("src");
		dialog.showModal();
		try {
			const text = await (await ask("ladder.txt" + query)).text();
			put(by("ladder-text"), text);
			picture.onload = () => {
				picture.hidden = false;
				put(by("ladder-error"), "");
			};
			picture.onerror = () => put(by("ladder-error"), "The drawing did not come; it is below as text.");
			picture.src = "ladder.svg" + query;
		} catch (error) {
			put(by("ladder-error"), error.message);
		}
	}

	function connect() {
		if (source) source.close();
		source = new EventSource("events");
		source.onmessage = (event) => {
			const first = state === null;
			state = JSON.parse(event.data);
			arrived = performance.now();
			show();
			if (first) loadSockets();
			told();
		};
		source.onerror = () => {
			told();
			if (source.readyState === EventSource.CLOSED) setTimeout(connect, 5000); // refused: too many look
		};
	}

	// told says whether what is on the page is of now.
	function told() {
		const link = by("link");
		const age = (performance.now() - arrived) / 1000;
		const fresh = state !== null && age < 3;
		link.classList.toggle("stale", state !== null && !fresh);
		if (state === null) {
			put(link, source && source.readyState === EventSource.CLOSED ? "refused: too many look, or it has ended; trying again" : "connecting …");
		} else {
			put(link, fresh ? "live" : `Nothing new since ${clock(state.time)}: what is below is old.`);
		}
	}

	for (const node of document.querySelectorAll(".tcpfsm .state")) {
		const name = node.id.slice("state-".length);
		node.addEventListener("click", () => choose(name, false));
		node.addEventListener("keydown", (event) => {
			if (event.key !== "Enter" && event.key !== " ") return;
			event.preventDefault();
			choose(name, true);
		});
	}
	for (const button of document.querySelectorAll("button.choose")) button.addEventListener("click", () => choose(button.dataset.state, true));
	by("load").addEventListener("click", loadSockets);
	by("ladder-close").addEventListener("click", () => by("ladder").close());
	// Who does not look is sent nothing.
	document.addEventListener("visibilitychange", () => {
		if (document.hidden && source) {
			source.close();
		} else if (!document.hidden) {
			connect();
		}
	});
	setInterval(told, 1000);
	choose(chosen, false);
	connect();
})();

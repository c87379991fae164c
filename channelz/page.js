"use strict";
// Renews the page in place: what has not changed is not touched, so that nothing flickers,
// a selection stays, and what was opened or closed stays so.
(function () {
	const every = 2000;
	const $ = function (id) { return document.getElementById(id); };
	const status = $("status"), pause = $("pause");
	let paused = false, since = null;

	function attributes(a, b) {
		for (const x of Array.from(a.attributes)) {
			if (!b.hasAttribute(x.name) && !(a.nodeName === "DETAILS" && x.name === "open")) a.removeAttribute(x.name);
		}
		for (const x of Array.from(b.attributes)) {
			if (a.nodeName === "DETAILS" && x.name === "open") continue;
			if (a.getAttribute(x.name) !== x.value) a.setAttribute(x.name, x.value);
		}
	}

	// become makes the children of a like those of b.
	function become(a, b) {
		const byID = new Map();
		for (const x of a.children) if (x.id) byID.set(x.id, x);
		let next = a.firstChild;
		for (const want of Array.from(b.childNodes)) {
			let have = null;
			if (want.id) have = byID.get(want.id) || null;
			else if (next && !next.id && next.nodeName === want.nodeName) have = next;
			if (!have || have.nodeName !== want.nodeName) {
				a.insertBefore(document.importNode(want, true), next);
				continue;
			}
			if (have === next) next = next.nextSibling;
			else a.insertBefore(have, next);
			if (have.nodeType === Node.ELEMENT_NODE) {
				attributes(have, want);
				become(have, want);
			} else if (have.data !== want.data) have.data = want.data;
		}
		while (next) {
			const gone = next;
			next = next.nextSibling;
			gone.remove();
		}
	}

	function show(state, text) {
		$("live").className = state;
		if (status.textContent !== text) status.textContent = text;
	}

	async function renew() {
		try {
			const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
			if (!answer.ok) throw new Error("status " + answer.status);
			const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main");
			if (!fresh) throw new Error("it is another page");
			if (paused) return;
			become($("main"), fresh);
			since = null;
			show("", "live");
		} catch (e) {
			since = since || new Date();
			if (!paused) show("lost", "no answer since " + since.toLocaleTimeString());
		}
	}

	async function loop() {
		if (!paused && !document.hidden) await renew();
		setTimeout(loop, every);
	}

	pause.addEventListener("click", function () {
		paused = !paused;
		pause.textContent = paused ? "go on" : "pause";
		if (paused) show("paused", "paused");
		else renew();
	});
	document.addEventListener("visibilitychange", function () { if (!document.hidden && !paused) renew(); });
	$("live").hidden = false;
	setTimeout(loop, every);
})();

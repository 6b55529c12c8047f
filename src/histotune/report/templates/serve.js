(() => {
  "use strict";
  const at = (id) => document.getElementById(id);
  const noMap = at("about").dataset.noMap;
  const make = (name, text, className) => {
    const element = document.createElement(name);
    if (text !== undefined) { element.textContent = text; }
    if (className) { element.className = className; }
    return element;
  };
  let asked = 0, address = "";
  const say = (text, failed) => { at("status").textContent = text; at("status").className = failed ? "failed" : ""; };
  const ask = async (place, file) => {
    const form = new FormData();
    form.append("image", file, file.name);
    if (at("mpp").value) { form.append("mpp", at("mpp").value); }
    const response = await fetch(place, { method: "POST", body: form });
    const answer = await response.json();
    if (!response.ok) { throw new Error(answer.error); }
    return answer;
  };
  const fact = (name, value) => { at("facts").append(make("dt", name), make("dd", value)); };
  const show = (found) => {
    const sure = found.probabilities[found.predicted];
    at("verdict").textContent = found.abstains
      ? `Undecided: ${found.set.join(" or ")}`
      : `${found.predicted} (probability ${sure.toFixed(3)})`;
    at("warnings").replaceChildren(...found.warnings.map((text) => make("li", text)));
    at("classes").replaceChildren(...Object.entries(found.probabilities).map(([name, value]) => {
      const row = make("tr", undefined, name === found.predicted ? "said-class" : ""), meter = make("meter"), last = make("td");
      meter.value = value;
      meter.setAttribute("aria-label", name);
      last.append(meter);
      row.append(make("td", name), make("td", value.toFixed(3), "num"), last);
      return row;
    }));
    at("facts").replaceChildren();
    fact("Decision", found.decision + (found.threshold === null ? "" : ` (threshold ${found.threshold.toFixed(3)})`));
    fact("Set of classes", found.set === null ? "none for this head" : found.set.join(", "));
    if (found.distance !== null) { fact("Distance from training", `${found.distance.toFixed(2)}${found.far ? ", far" : ""}`); }
    if (found.nearest.length) {
      fact("Nearest training tiles", found.nearest.map((one) =>
        `${one.sha256.slice(0, 12) || "unknown"} at ${one.distance.toFixed(2)} (case ${one.group + 1})`).join("; "));
    }
    if (found.input_mpp !== null) { fact("Scale at the network's input", `${found.input_mpp.toFixed(3)} µm per pixel`); }
    fact("Image", `${found.width_px} × ${found.height_px} pixels`);
    at("result").hidden = false;
  };
  const showMap = (found) => {
    at("picture").src = `data:image/png;base64,${found.picture_png_base64}`;
    const words = `Where the logit for ${found.class_name} comes from: ${found.words}. Red speaks for it, blue against it. ` +
      (found.cls_term ? `The class token holds ${(100 * found.cls_share).toFixed(0)} % of what is added, which no map can show.`
        : "The map shows all that is added.");
    at("picture").alt = words;
    at("caption").textContent = words;
    at("map").hidden = false;
  };
  const take = async (file) => {
    const mine = ++asked;
    at("result").hidden = true;
    at("map").hidden = true;
    at("no-map").textContent = "";
    const mostMib = Number(at("about").dataset.limitMib);
    if (file.size > mostMib * 2 ** 20) { say(`This file is too large: at most ${mostMib} MiB are read.`, true); return; }
    say(`Asking about ${file.name} …`);
    if (address) { URL.revokeObjectURL(address); }
    address = URL.createObjectURL(file);
    at("sent").src = address;
    at("sent-name").textContent = file.name;
    try {
      const answer = await ask("predict", file);
      if (mine !== asked) { return; }
      show(answer.images[0]);
      if (noMap) { at("no-map").textContent = `No map: ${noMap}.`; say("Done."); return; }
      say("Drawing where that comes from …");
      const map = await ask("explain", file);
      if (mine !== asked) { return; }
      showMap(map);
      say("Done.");
    } catch (error) {
      if (mine === asked) { say(error instanceof TypeError ? "The server does not answer: has it been stopped?" : error.message, true); }
    }
  };
  const drop = at("drop");
  at("file").addEventListener("change", (event) => { if (event.target.files.length) { take(event.target.files[0]); } });
  ["dragover", "dragenter"].forEach((kind) => drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); }));
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) { take(event.dataTransfer.files[0]); }
  });
})();

// One group at a time: show, let rank, send, go on. Who this is stays in the browser, so that a closed page goes on.
const KEY = "study-person";
const at = (id) => document.getElementById(id);

async function ask(path, method = "GET", body = undefined) {
  const answer = await fetch(path, {
    method,
    body: body === undefined ? undefined : JSON.stringify(body),
    headers: body === undefined ? {} : { "content-type": "application/json" },
  });
  if (answer.status === 404) return null;
  const text = await answer.text();
  const value = text ? JSON.parse(text) : {};
  if (!answer.ok) throw new Error(value.error ?? value.detail ?? `the server answered ${answer.status}`);
  return value;
}

async function standing() {
  const known = localStorage.getItem(KEY);
  const found = known && (await ask(`api/people/${known}`));
  if (found) return [known, found];
  const { person } = await ask("api/people", "POST");
  localStorage.setItem(KEY, person);
  return [person, await ask(`api/people/${person}`)];
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function ranks(criterion, letter, count) {
  const row = element("div", { className: "ranks" });
  for (let rank = 1; rank <= count; rank += 1) {
    const input = element("input", { type: "radio", name: `${criterion}-${letter}`, value: String(rank), required: true });
    input.dataset.criterion = criterion;
    input.setAttribute("aria-label", `${letter}, ${criterion}, rank ${rank}`);
    row.append(element("label", {}, input, element("span", { textContent: String(rank) })));
  }
  return element("fieldset", {}, element("legend", { textContent: criterion }), row);
}

const chosen = (criterion) => [...document.querySelectorAll(`input[data-criterion="${criterion}"]:checked`)];

async function show() {
  const [person, state] = await standing();
  const criteria = Object.keys(state.criteria);
  at("group").hidden = state.next === null;
  if (state.next === null) {
    at("progress").textContent = `All ${state.groups} groups are ranked. Thank you.`;
    return;
  }
  at("progress").textContent = `Group ${state.done + 1} of ${state.groups}`;
  const place = `api/people/${person}/groups/${state.next}`;
  for (const part of ["source", "exemplar"]) at(part).src = `${place}/${part}`;
  at("questions").replaceChildren(
    ...criteria.flatMap((name) => [
      element("dt", { textContent: name }),
      element("dd", { textContent: state.criteria[name] }),
    ]),
  );
  at("results").replaceChildren(
    ...Array.from({ length: state.results }, (_, index) => {
      const letter = String.fromCharCode(65 + index);
      const image = element("img", { src: `${place}/${index}`, alt: `result ${letter}` });
      const caption = element("figcaption", { textContent: letter });
      return element("div", {}, element("figure", {}, image, caption), ...criteria.map((c) => ranks(c, letter, state.results)));
    }),
  );
  at("next").disabled = true;
  at("group").onchange = ({ target }) => {
    for (const other of chosen(target.dataset.criterion)) {
      if (other !== target && other.value === target.value) other.checked = false; // each rank once
    }
    at("next").disabled = criteria.some((c) => chosen(c).length < state.results);
  };
  at("group").onsubmit = async (event) => {
    event.preventDefault();
    at("next").disabled = true;
    const given = Object.fromEntries(criteria.map((c) => [c, chosen(c).map((input) => Number(input.value))]));
    try {
      await ask(place, "PUT", given);
      at("problem").textContent = "";
      await show();
      window.scrollTo(0, 0);
    } catch (error) {
      at("problem").textContent = `Not sent: ${error.message}. Try again.`;
      at("next").disabled = false;
    }
  };
}

show().catch((error) => {
  at("problem").textContent = `The page cannot start: ${error.message}. Load it again.`;
});

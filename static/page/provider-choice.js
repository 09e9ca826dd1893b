/**
 * Who answers: a choice where there is one, and in every case a plain word about it. This module
 * knows nothing of turns or of how the choices are read.
 */

import { element, setText } from "./dom.js";
import { store, stored } from "./storage.js";

const KEY = "answers-by";

const NOTES = {
  local:
    "Answers come from a small model that runs on this machine. It is often wrong: check what it says.",
  offline: "No model answers here: a script says how to set one up.",
};

export class ProviderChoice {
  #select;
  #name;
  #note;
  #choices = [];

  /** @param {{select: Element, name: Element, note: Element}} places */
  constructor({ select, name, note }) {
    this.#select = select;
    this.#name = name;
    this.#note = note;
    select.addEventListener("change", () => {
      store(KEY, this.#select.value);
      this.#show();
    });
  }

  /** @param {object[]} providers those of `GET /providers` */
  update(providers) {
    this.#choices = choicesOf(providers);
    const wanted = stored(KEY);
    const chosen =
      this.#choices.find((choice) => keyOf(choice) === wanted) ??
      this.#choices.find((choice) => choice.isDefault) ??
      this.#choices[0];
    this.#select.replaceChildren(...this.#choices.map(option));
    if (chosen) this.#select.value = keyOf(chosen);
    this.#show();
  }

  /** What to send along; nothing where the server's own choice stands. */
  get options() {
    const chosen = this.#chosen();
    if (!chosen || chosen.isDefault) return {};
    return { provider: chosen.provider, model: chosen.model };
  }

  /** Say whether an answer is of whom the choice stands at. */
  made({ provider, model }) {
    const chosen = this.#chosen();
    return chosen !== undefined && chosen.provider === provider && chosen.model === model;
  }

  #chosen() {
    return this.#choices.find((choice) => keyOf(choice) === this.#select.value);
  }

  #show() {
    const chosen = this.#chosen();
    const many = this.#choices.length > 1;
    this.#select.hidden = !many;
    this.#name.hidden = many || !chosen;
    setText(this.#name, chosen ? labelOf(chosen) : "");
    const general = `Answers come from ${chosen?.provider}. Models make mistakes: check what matters.`;
    setText(this.#note, chosen ? (NOTES[chosen.provider] ?? general) : "");
    this.#note.dataset.provider = chosen?.provider ?? "";
  }
}

/** A choice per provider and model. The default provider's first model is the default one. */
function choicesOf(providers) {
  return providers.flatMap(({ name, models, default: isDefault, state }) =>
    (models?.length ? models : [undefined]).map((model, index) => ({
      provider: name,
      model,
      isDefault: isDefault === true && index === 0,
      isAway: state === "open",
    })),
  );
}

function option(choice) {
  const away = choice.isAway ? " (not reachable)" : "";
  return element("option", { value: keyOf(choice) }, labelOf(choice) + away);
}

function labelOf({ provider, model }) {
  return [provider, model].filter(Boolean).join(" · ");
}

function keyOf({ provider, model }) {
  return JSON.stringify([provider, model ?? null]);
}

/**
 * The cells of a table's row. This module knows nothing of the parser or of elements: text in,
 * texts out.
 */

const CODE = /(?<!`)(`+)(?!`)[^`]+\1(?!`)/g;
const PIPE = /\\.|\|/g;

/**
 * Cut a row into cells, `columns` of them or more.
 *
 * Where there would be more, a bar within code is none that parts cells: `a || b` is one cell.
 */
export function cellsOf(line, columns) {
  const plain = cut(line, () => false);
  if (plain.length <= columns) return filled(plain, columns);
  const codes = [...line.matchAll(CODE)].map(({ index, 0: code }) => [index, index + code.length]);
  let next = 0;
  const joined = cut(line, (at) => {
    while (codes[next]?.[1] <= at) next++;
    return codes[next]?.[0] <= at;
  });
  return filled(joined.length < plain.length ? joined : plain, columns);
}

function cut(line, isLeftAlone) {
  const found = [];
  let start = 0;
  for (const { index, 0: sign } of line.matchAll(PIPE)) {
    if (sign !== "|" || isLeftAlone(index)) continue;
    found.push(line.slice(start, index));
    start = index + 1;
  }
  found.push(line.slice(start));
  if (!found[0].trim()) found.shift();
  while (found.length && !found.at(-1).trim()) found.pop();
  return found.map((text) => text.trim().replaceAll("\\|", "|"));
}

function filled(cells, columns) {
  return [...cells, ...Array(Math.max(0, columns - cells.length)).fill("")];
}

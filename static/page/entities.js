/**
 * Text as HTML that shows it. Of what looks like a character's name only a whole known name with
 * its semicolon is one, as CommonMark has it: a browser alone would also take the beginning of
 * another word for one (`&current;`, `&region;`). This module knows nothing of elements.
 */

const SIGNS = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

/** The names that a browser takes without a semicolon; it leaves alone what it does not know. */
const SHORT = names(`
  AElig AMP Aacute Acirc Agrave Aring Atilde Auml COPY Ccedil ETH Eacute Ecirc Egrave Euml GT Iacute
  Icirc Igrave Iuml LT Ntilde Oacute Ocirc Ograve Oslash Otilde Ouml QUOT REG THORN Uacute Ucirc
  Ugrave Uuml Yacute aacute acirc acute aelig agrave amp aring atilde auml brvbar ccedil cedil cent
  copy curren deg divide eacute ecirc egrave eth euml frac12 frac14 frac34 gt iacute icirc iexcl
  igrave iquest iuml laquo lt macr micro middot nbsp not ntilde oacute ocirc ograve ordf ordm oslash
  otilde ouml para plusmn pound quot raquo reg sect shy sup1 sup2 sup3 szlig thorn times uacute
  ucirc ugrave uml uuml yacute yen yuml`);
/** The known names that begin with one of those. */
const LONGER = names(`
  centerdot copysr divideontimes gtcc gtcir gtdot gtlPar gtquest gtrapprox gtrarr gtrdot gtreqless
  gtreqqless gtrless gtrsim ltcc ltcir ltdot lthree ltimes ltlarr ltquest ltrPar ltri ltrie ltrif
  notin notinE notindot notinva notinvb notinvc notni notniva notnivb notnivc parallel timesb
  timesbar timesd`);
const BEGINS_SHORT = new RegExp(`^(?:${[...SHORT].join("|")})`);
const FOUND = /[<>"']|&(?:#\d{1,7};|#[xX][\da-fA-F]{1,6};|([a-zA-Z][a-zA-Z\d]{1,31});)?/g;

function names(list) {
  return new Set(list.trim().split(/\s+/));
}

/** HTML that shows a text as it is. */
export function escape(text) {
  return text.replace(/[&<>"']/g, (character) => SIGNS[character]);
}

/** HTML that shows a text, and the characters that are named in it. */
export function escapeUnnamed(text) {
  return text.replace(FOUND, (found, name) => {
    const isNamed = found.length > 1 && (!name || isWhole(name));
    return isNamed ? found : escape(found);
  });
}

function isWhole(name) {
  return !BEGINS_SHORT.test(name) || SHORT.has(name) || LONGER.has(name);
}

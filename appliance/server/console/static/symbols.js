/** The signs of formulas by their names in TeX. */

/** @param {string} pairs names and signs in turn @returns {Record<string, string>} */
function table(pairs) {
  const words = pairs.split(" ");
  return Object.fromEntries(words.flatMap((word, index) => index % 2 ? [] : [[`\\${word}`, words[index + 1]]]));
}

/** Letters, which are set in italics. */
export const LETTERS = table("alpha α beta β gamma γ delta δ epsilon ϵ varepsilon ε zeta ζ eta η theta θ vartheta ϑ iota ι kappa κ lambda λ mu μ nu ν xi ξ pi π varpi ϖ rho ρ varrho ϱ sigma σ varsigma ς tau τ "
  + "upsilon υ phi ϕ varphi φ chi χ psi ψ omega ω Gamma Γ Delta Δ Theta Θ Lambda Λ Xi Ξ Pi Π Sigma Σ Upsilon Υ Phi Φ Psi Ψ Omega Ω ell ℓ hbar ℏ imath ı jmath ȷ Re ℜ Im ℑ aleph ℵ infty ∞ emptyset ∅ varnothing ∅ partial ∂ nabla ∇ top ⊤ bot ⊥ degree °");

/** Operators with limits. */
export const LARGE = table("sum ∑ prod ∏ coprod ∐ int ∫ iint ∬ iiint ∭ oint ∮ bigcup ⋃ bigcap ⋂ bigoplus ⨁ bigotimes ⨂ bigvee ⋁ bigwedge ⋀");

/** Operators, relations and arrows. */
export const SYMBOLS = /** @type {Record<string, string>} */ ({ ...table("times × cdot ⋅ div ÷ pm ± mp ∓ ast ∗ star ⋆ circ ∘ bullet ∙ oplus ⊕ ominus ⊖ otimes ⊗ odot ⊙ cup ∪ cap ∩ setminus ∖ wedge ∧ land ∧ vee ∨ lor ∨ neg ¬ lnot ¬ dagger † le ≤ leq ≤ leqslant ⩽ ge ≥ geq ≥ geqslant ⩾ "
  + "ne ≠ neq ≠ equiv ≡ approx ≈ sim ∼ simeq ≃ cong ≅ propto ∝ ll ≪ gg ≫ prec ≺ succ ≻ in ∈ notin ∉ ni ∋ subset ⊂ subseteq ⊆ subsetneq ⊊ supset ⊃ supseteq ⊇ perp ⊥ parallel ∥ mid ∣ nmid ∤ models ⊨ vdash ⊢ forall ∀ exists ∃ nexists ∄ therefore ∴ because ∵ "
  + "to → rightarrow → leftarrow ← gets ← leftrightarrow ↔ Rightarrow ⇒ implies ⟹ Leftarrow ⇐ impliedby ⟸ Leftrightarrow ⇔ iff ⟺ longrightarrow ⟶ mapsto ↦ hookrightarrow ↪ uparrow ↑ downarrow ↓ rightharpoonup ⇀ rightleftharpoons ⇌ "
  + "ldots … dots … cdots ⋯ vdots ⋮ ddots ⋱ angle ∠ triangle △ square □ blacksquare ■ checkmark ✓ prime ′ colon : lvert | rvert | lVert ‖ rVert ‖ langle ⟨ rangle ⟩ lfloor ⌊ rfloor ⌋ lceil ⌈ rceil ⌉ backslash \\ { { } } % % # # $ $ & & _ _ | ‖"), "~": "\u00a0" });

/** Names of functions; true for those with limits. @type {Record<string, boolean>} */
export const FUNCTIONS = Object.fromEntries([
  ..."sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth log ln lg exp dim ker deg arg hom Pr gcd".split(" ").map((name) => [`\\${name}`, false]),
  ..."lim limsup liminf max min sup inf det argmax argmin".split(" ").map((name) => [`\\${name}`, true])]);

/** @type {Record<string, string>} */
export const SPACES = { "\\,": "0.167em", "\\:": "0.222em", "\\>": "0.222em", "\\;": "0.278em", "\\!": "-0.167em", "\\ ": "0.333em", "\\quad": "1em", "\\qquad": "2em" };

/** Signs above or below, and their place. @type {Record<string, string[]>} */
export const ACCENTS = { "\\hat": ["^", "over"], "\\widehat": ["^", "wide"], "\\bar": ["‾", "over"], "\\overline": ["‾", "wide"], "\\vec": ["→", "over"], "\\overrightarrow": ["→", "wide"], "\\dot": ["˙", "over"],
  "\\ddot": ["¨", "over"], "\\tilde": ["~", "over"], "\\widetilde": ["~", "wide"], "\\check": ["ˇ", "over"], "\\overbrace": ["⏞", "wide"], "\\underbrace": ["⏟", "under"], "\\underline": ["_", "under"] };

/** @type {Record<string, string>} */
export const DELIMITERS = { ...table("{ { } } | ‖ lbrace { rbrace } vert | Vert ‖ lvert | rvert | lVert ‖ rVert ‖ langle ⟨ rangle ⟩ lfloor ⌊ rfloor ⌋ lceil ⌈ rceil ⌉ uparrow ↑ downarrow ↓ backslash \\"), ".": "" };

const ALPHABETS = /** @type {Record<string, [number, number, number|null]>} */ ({ mathbb: [0x1d538, 0x1d552, 0x1d7d8], mathbf: [0x1d400, 0x1d41a, 0x1d7ce], boldsymbol: [0x1d468, 0x1d482, 0x1d7ce],
  mathcal: [0x1d49c, 0x1d4b6, null], mathfrak: [0x1d504, 0x1d51e, null], mathsf: [0x1d5a0, 0x1d5ba, 0x1d7e2], mathtt: [0x1d670, 0x1d68a, 0x1d7f6] });
const ELSEWHERE = /** @type {Record<string, Record<string, string>>} */ ({
  mathbb: { C: "ℂ", H: "ℍ", N: "ℕ", P: "ℙ", Q: "ℚ", R: "ℝ", Z: "ℤ" },
  mathcal: { B: "ℬ", E: "ℰ", F: "ℱ", H: "ℋ", I: "ℐ", L: "ℒ", M: "ℳ", R: "ℛ", e: "ℯ", g: "ℊ", o: "ℴ" },
  mathfrak: { C: "ℭ", H: "ℌ", I: "ℑ", R: "ℜ", Z: "ℨ" } });

/** Return a text in the letters of an alphabet. @param {string} name @param {string} text */
export function styled(name, text) {
  const alphabet = ALPHABETS[name];
  if (!alphabet) return text;
  const [upper, lower, digit] = alphabet;
  return Array.from(text.trim(), (letter) => {
    if (ELSEWHERE[name]?.[letter]) return ELSEWHERE[name][letter];
    if (/[A-Z]/.test(letter)) return String.fromCodePoint(upper + letter.charCodeAt(0) - 65);
    if (/[a-z]/.test(letter)) return String.fromCodePoint(lower + letter.charCodeAt(0) - 97);
    return /\d/.test(letter) && digit ? String.fromCodePoint(digit + Number(letter)) : letter;
  }).join("");
}

/**
 * Lists on their way to PostgreSQL, as the text of an array: the statement stays the same for any length, is prepared once,
 * and what goes over the wire is a third of the same as JSON. Pure.
 */

/** An array of texts. */
export const pgArray = (values: ReadonlyArray<string | null>) => `{${values.map(quoted).join()}}`

/** An array of what needs no quotes: numbers, UUIDs. */
export const pgPlainArray = (values: ReadonlyArray<string | number | null>) =>
  `{${values.map((value) => value ?? "NULL").join()}}`

/** An array of JSON texts. JSON has no control characters, so what its own quoting escapes is what an array escapes. */
export const pgJsonArray = (values: ReadonlyArray<string>) => `{${values.map((text) => JSON.stringify(text)).join()}}`

const quoted = (value: string | null) => {
  if (value === null) return "NULL"
  return special.test(value) ? `"${value.replaceAll(everySpecial, "\\$&")}"` : `"${value}"`
}

const special = /["\\]/
const everySpecial = /["\\]/g

/** A column of a list: each value; or, where all are alike, that one. The other is `null`, to be joined by `coalesce`. */
export const column = <A extends string | number | null>(
  values: ReadonlyArray<A>,
  array: (values: ReadonlyArray<A>) => string
): { readonly each: string | null; readonly alike: string | null } => {
  const first = values[0]
  // At least one column has to have the length of the list.
  const areAlike = values.length > 1 && values.every((other) => other === first)
  if (!areAlike) return { each: array(values), alike: null }
  return { each: null, alike: first === undefined || first === null ? null : String(first) }
}

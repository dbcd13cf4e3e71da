/** An error in one line that is never empty: its message, or else its tag with its fields; and the cause, if that says more. */

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null

/** So much of a field is shown, and of a message: whoever answers may have said more than anybody reads. */
const fieldLength = 200
const messageLength = 4_000

const shown = (value: unknown): string => {
  if (typeof value === "string") return value.slice(0, fieldLength)
  try {
    return (JSON.stringify(value) ?? String(value)).slice(0, fieldLength)
  } catch {
    return String(value).slice(0, fieldLength)
  }
}

/** What every error has, and what the rest of the line says anyway. */
const unremarkable = new Set(["_tag", "message", "name", "stack", "cause"])

const ownText = (error: unknown): string => {
  if (!isRecord(error)) return shown(error)
  const message = error["message"]
  if (typeof message === "string" && message.trim() !== "") return message.slice(0, messageLength)
  const { _tag: tag, name } = error
  const title = typeof tag === "string" ? tag : typeof name === "string" && name !== "" ? name : "an unknown error"
  const fields = Object.entries(error)
    .filter(([field, value]) => !unremarkable.has(field) && typeof value !== "function")
    .map(([field, value]) => `${field}=${shown(value)}`)
  return fields.length === 0 ? title : `${title} (${fields.join(", ")})`
}

/** A chain of causes that is longer is not of more help. */
const mostCauses = 5

export const describeError = (error: unknown): string => {
  const texts: Array<string> = []
  let current = error
  for (let count = 0; count < mostCauses && current !== undefined && current !== null; count++) {
    const text = ownText(current)
    if (text !== "" && !texts.some((earlier) => earlier.includes(text))) texts.push(text)
    current = isRecord(current) ? current["cause"] : undefined
  }
  return texts.length === 0 ? `an error without any text: ${String(error) || "an empty text"}` : texts.join(": ")
}

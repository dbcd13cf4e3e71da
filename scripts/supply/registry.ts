/** What npm says after it asked the registry: pure. An answer that is none is told from one that is bad. */
import { Option, Schema } from "effect"

export interface Verdict {
  readonly isWrong: boolean
  readonly text: string
}

export interface Ran {
  readonly status: number | null
  readonly output: string
}

const levels = ["critical", "high", "moderate", "low", "info"] as const
/** Of these a change does not land. The others are said. */
const counting: ReadonlyArray<string> = ["critical", "high", "moderate"]

const Audit = Schema.fromJsonString(Schema.Struct({
  vulnerabilities: Schema.Record(Schema.String, Schema.Struct({ severity: Schema.Literals(levels) }))
}))

const Package = Schema.Struct({ name: Schema.String, version: Schema.String })
const Signatures = Schema.fromJsonString(
  Schema.Struct({ invalid: Schema.Array(Package), missing: Schema.Array(Package) })
)

const unanswered = ({ output }: Ran): Verdict => ({
  isWrong: false,
  text: `not checked, as the registry did not answer: ${output.trim().replaceAll(/\s+/g, " ").slice(0, 200)}`
})

export const readAudit = (ran: Ran): Verdict =>
  Option.match(Schema.decodeUnknownOption(Audit)(ran.output), {
    onNone: () => unanswered(ran),
    onSome: ({ vulnerabilities }) => {
      const found = Object.entries(vulnerabilities).map(([name, { severity }]) => `${name} (${severity})`)
      return {
        isWrong: Object.values(vulnerabilities).some(({ severity }) => counting.includes(severity)),
        text: found.length === 0 ? "none is known" : found.join(", ")
      }
    }
  })

const list = (packages: ReadonlyArray<typeof Package.Type>) =>
  packages.map(({ name, version }) => `${name}@${version}`).join(", ")

export const readSignatures = (ran: Ran): Verdict =>
  Option.match(Schema.decodeUnknownOption(Signatures)(ran.output), {
    onNone: () => unanswered(ran),
    onSome: ({ invalid, missing }) =>
      invalid.length > 0 || missing.length > 0
        ? { isWrong: true, text: `wrong: ${list(invalid) || "none"}; missing: ${list(missing) || "none"}` }
        : { isWrong: false, text: "each package that is installed was signed by the registry" }
  })

import { describe } from "../database/Unavailable.ts"
import { describeError } from "./errorText.ts"

const sqlState = /^[0-9A-Z]{5}$/

/** As `describeError`; of PostgreSQL's errors its own words, and not the driver's around them. */
export const describeFailure = (error: unknown): string => {
  const { code, detail } = describe(error)
  return sqlState.test(code ?? "") ? detail : describeError(error)
}

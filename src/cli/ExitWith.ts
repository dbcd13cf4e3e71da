/** The status with which the command ends, when it is not 0. */
export class ExitWith extends Error {
  readonly status: number
  constructor(status: number) {
    super(`exit status ${status}`)
    this.status = status
  }
}

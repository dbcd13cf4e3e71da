import { assert, describe, it } from "@effect/vitest"
import { rowsAtOnce, Unwritten } from "../../src/tailnet/Unwritten.ts"
import { node, uuid } from "../support/TailnetWorld.ts"

const present = (asOf: number) => ({ node: node(asOf), isLost: false })
const none = () => []
const tunnel = (from: number, to: number, isOpen = true) => ({ from: uuid(from), to: uuid(to), isOpen })

describe("Unwritten", () => {
  it("has the newest of each", () => {
    const unwritten = new Unwritten()
    unwritten.setPeer(uuid(1), present(1))
    unwritten.setPeer(uuid(1), present(2))
    unwritten.setTunnel(tunnel(1, 2))
    unwritten.setTunnel(tunnel(1, 2, false))
    assert.deepStrictEqual(unwritten.take(none), {
      peers: [[uuid(1), present(2)]],
      lists: [],
      tunnels: [tunnel(1, 2, false)]
    })
    assert.isTrue(unwritten.isEmpty)
  })

  it("gives as much as one statement may hold, and the rest with the next", () => {
    const unwritten = new Unwritten()
    for (let number = 0; number < 2_500; number++) {
      unwritten.setPeer(uuid(number), present(number))
      unwritten.setTunnel(tunnel(number, number + 1))
    }
    for (let number = 0; number < 25; number++) unwritten.setList(uuid(number))
    const thousand = Array.from({ length: 1_000 }, (_, to) => uuid(to))
    const sizes = []
    while (!unwritten.isEmpty) {
      const { lists, peers, tunnels } = unwritten.take(() => thousand)
      sizes.push([peers.length, lists.length, tunnels.length])
    }
    assert.deepStrictEqual(sizes, [[rowsAtOnce, 10, rowsAtOnce], [rowsAtOnce, 10, rowsAtOnce], [500, 5, 500]])
  })

  it("puts back what was not written, but for what is newer", () => {
    const unwritten = new Unwritten()
    unwritten.setPeer(uuid(1), present(1))
    unwritten.setPeer(uuid(2), present(2))
    const changes = unwritten.take(none)
    unwritten.setPeer(uuid(1), present(10))
    unwritten.putBack(changes, () => true)
    assert.deepStrictEqual(
      new Map(unwritten.take(none).peers),
      new Map([[uuid(1), present(10)], [uuid(2), present(2)]])
    )
  })

  it("puts back the tunnels of who is still here as they are now, and none of one whose session broke meanwhile", () => {
    const unwritten = new Unwritten()
    unwritten.setList(uuid(1))
    unwritten.setTunnel(tunnel(2, 3))
    unwritten.setList(uuid(4))
    unwritten.setTunnel(tunnel(5, 6))
    const changes = unwritten.take(none)
    const here = new Set([uuid(1), uuid(2)])
    unwritten.putBack(changes, (peer) => here.has(peer))
    const { lists, tunnels } = unwritten.take((peer) => [peer === uuid(1) ? uuid(7) : uuid(8)])
    assert.deepStrictEqual(lists, [[uuid(1), [uuid(7)]], [uuid(2), [uuid(8)]]])
    assert.deepStrictEqual(tunnels, [])
  })

  it("goes on closing the tunnels of one that has said goodbye", () => {
    const unwritten = new Unwritten()
    unwritten.setPeer(uuid(1), undefined)
    unwritten.setList(uuid(1))
    unwritten.setTunnel(tunnel(1, 2, false))
    unwritten.putBack(unwritten.take(none), () => false)
    assert.isTrue(unwritten.hasTunnel(uuid(1), uuid(2)))
    assert.deepStrictEqual(unwritten.take(none), {
      peers: [[uuid(1), undefined]],
      lists: [[uuid(1), []]],
      tunnels: [tunnel(1, 2, false)]
    })
  })
})

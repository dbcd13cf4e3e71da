/**
 * What the package exports, read from its declarations, and libraries that use all of it as an embedder would: whatever
 * a library exports has its type written into the library's own declarations, so that each type in it needs a public name.
 *
 * The compiler's interface is that of TypeScript 5.9; 7 has none for JavaScript.
 */
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import ts from "typescript-5.9"

export interface Library {
  /** Of a file, without its ending. */
  readonly name: string
  readonly source: string
}

/**
 * Two modules for each export of an entry point. The first has this export alone in scope; the second has nothing of the
 * package in scope, and exports again what the first made.
 */
export const librariesOf = (directory: string, entry: string): ReadonlyArray<Library> => {
  const { checker, exports } = open(directory, entry)
  return exports.flatMap((symbol, at) => {
    const name = `library${at}-${symbol.getName()}`
    const uses = usesOf(checker, symbol, "It")
    return [
      {
        name,
        source: [
          `import { ${symbol.getName()} as It } from ${JSON.stringify(entry)}`,
          ...(uses.some((use) => use.startsWith("Effect.")) ? ["import { Effect } from \"effect\""] : []),
          ...uses.map((use, number) => `export const use${number} = ${use}`),
          ""
        ].join("\n")
      },
      {
        name: `${name}-again`,
        source: [
          `import * as library from "./${name}.js"`,
          ...uses.map((_, number) => `export const again${number} = library.use${number}`),
          ""
        ].join("\n")
      }
    ]
  })
}

const open = (directory: string, entry: string) => {
  const options: ts.CompilerOptions = {
    module: ts.ModuleKind.NodeNext,
    target: ts.ScriptTarget.ES2023,
    strict: true,
    skipLibCheck: true,
    types: []
  }
  const file = join(directory, "entry.ts")
  writeFileSync(file, `export * from ${JSON.stringify(entry)}\n`)
  const program = ts.createProgram([file], options)
  const source = program.getSourceFile(file)
  const checker = program.getTypeChecker()
  const all = source === undefined ? undefined : checker.getSymbolAtLocation(source)
  if (all === undefined) throw new Error(`${entry} has no declarations`)
  return { checker, exports: checker.getExportsOfModule(all) }
}

const resolve = (checker: ts.TypeChecker, symbol: ts.Symbol) =>
  (symbol.flags & ts.SymbolFlags.Alias) === 0 ? symbol : checker.getAliasedSymbol(symbol)

/** Expressions whose types show all that the export is made of. `path` is how it is named. */
const usesOf = (checker: ts.TypeChecker, exported: ts.Symbol, path: string): ReadonlyArray<string> => {
  const symbol = resolve(checker, exported)
  if ((symbol.flags & ts.SymbolFlags.ValueModule) !== 0) {
    return checker.getExportsOfModule(symbol).flatMap((inner) => usesOf(checker, inner, `${path}.${inner.getName()}`))
  }
  const isValue = (symbol.flags & ts.SymbolFlags.Value) !== 0 && exported.declarations?.some(isTypeOnly) !== true
  const isClass = (symbol.flags & ts.SymbolFlags.Class) !== 0
  const isType = (symbol.flags & (ts.SymbolFlags.TypeAlias | ts.SymbolFlags.Interface)) !== 0
  return [
    ...(isValue ? [path] : []),
    ...(isValue && isClass ? usesOfClass(checker, checker.getTypeOfSymbol(symbol), path) : []),
    ...(isClass ? [`(value: ${path}) => (${fieldsOf(checker, checker.getDeclaredTypeOfSymbol(symbol))})`] : []),
    ...(isType
      ? [
        `(value: ${path}${parametersOf(symbol)}) => ${
          isObject(checker.getDeclaredTypeOfSymbol(symbol)) ? "({ ...value })" : "value"
        }`
      ]
      : [])
  ]
}

const isTypeOnly = (declaration: ts.Declaration) => ts.isTypeOnlyImportOrExportDeclaration(declaration)

/** A service is asked for, an error is made; what the class itself has (layers, mostly) is named. */
const usesOfClass = (checker: ts.TypeChecker, type: ts.Type, path: string) => [
  type.getProperty("Service") === undefined
    ? `(...parameters: ConstructorParameters<typeof ${path}>) => new ${path}(...parameters)`
    : `Effect.map(${path}, (service) => ({ ...service }))`,
  ...ownProperties(checker, type).filter((name) => name !== "prototype").map((name) => `${path}.${name}`)
]

/** What an instance has of its own; the rest is of the platform and of Effect. */
const fieldsOf = (checker: ts.TypeChecker, instance: ts.Type) =>
  `{ ${ownProperties(checker, instance).map((name) => `${name}: value.${name}`).join(", ")} }`

const ownProperties = (checker: ts.TypeChecker, type: ts.Type) =>
  checker.getPropertiesOfType(type).filter(isOurs).map((property) => property.getName())

const isOurs = (symbol: ts.Symbol) =>
  symbol.declarations?.some((declaration) => declaration.getSourceFile().fileName.includes("/node_modules/lull/")) ===
    true

/** What can be spread. An error cannot: it has members of the platform and of Effect that have no name. */
const isObject = (type: ts.Type): boolean =>
  type.isUnionOrIntersection()
    ? type.types.every(isObject)
    : (type.flags & ts.TypeFlags.Object) !== 0 && type.getCallSignatures().length === 0 &&
      type.getProperty("stack") === undefined

const parametersOf = (symbol: ts.Symbol) => {
  const count = Math.max(
    0,
    ...(symbol.declarations ?? []).map((declaration) =>
      ts.isInterfaceDeclaration(declaration) || ts.isTypeAliasDeclaration(declaration)
        ? declaration.typeParameters?.length ?? 0
        : 0
    )
  )
  return count === 0 ? "" : `<${Array.from({ length: count }, () => "unknown").join(", ")}>`
}

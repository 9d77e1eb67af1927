/** The part of OpenAPI 3.1 that the page shows. */

export interface Schema {
  $ref?: string;
  type?: string | string[];
  format?: string;
  description?: string;
  enum?: unknown[];
  const?: unknown;
  properties?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
  additionalProperties?: Schema | boolean;
  oneOf?: Schema[];
  anyOf?: Schema[];
  allOf?: Schema[];
  minimum?: number;
  maximum?: number;
  minLength?: number;
  maxLength?: number;
  pattern?: string;
  default?: unknown;
  example?: unknown;
}

export interface Parameter {
  name: string;
  in: string;
  required?: boolean;
  description?: string;
  schema?: Schema;
}

interface Body {
  description?: string;
  required?: boolean;
  content?: Record<string, { schema?: Schema; example?: unknown }>;
}

export interface Operation {
  summary?: string;
  description?: string;
  operationId?: string;
  tags?: string[];
  parameters?: Parameter[];
  requestBody?: Body;
  responses?: Record<string, Body>;
}

export interface Description {
  info: { title: string; version: string; description?: string };
  paths?: Record<string, Record<string, unknown>>;
  components?: { schemas?: Record<string, Schema> };
  tags?: { name: string; description?: string }[];
}

export interface Listed {
  id: string;
  method: string;
  path: string;
  operation: Operation;
}

const METHODS = ["get", "post", "put", "patch", "delete"];

/** All operations, by tag, in the order of the description. */
export function operationsByTag(api: Description): Map<string, Listed[]> {
  const groups = new Map<string, Listed[]>((api.tags ?? []).map((t) => [t.name, []]));
  for (const [path, item] of Object.entries(api.paths ?? {})) {
    const shared = (item.parameters ?? []) as Parameter[];
    for (const method of METHODS) {
      const found = item[method] as Operation | undefined;
      if (!found) continue;
      const operation = { ...found, parameters: [...shared, ...(found.parameters ?? [])] };
      const tag = operation.tags?.[0] ?? "other";
      const id = `${method}${path.replace(/[^a-z0-9]+/gi, "-")}`.replace(/-$/, "");
      const group = groups.get(tag) ?? [];
      group.push({ id, method, path, operation });
      groups.set(tag, group);
    }
  }
  for (const [tag, list] of groups) if (list.length === 0) groups.delete(tag);
  return groups;
}

export function schemaName(ref: string): string {
  return ref.slice(ref.lastIndexOf("/") + 1);
}

/** A schema's type in one line; a named one stays a name, which the page makes a link. */
export function typeOf(schema: Schema | undefined): string {
  if (!schema) return "any";
  if (schema.$ref) return schemaName(schema.$ref);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((v) => JSON.stringify(v)).join(" | ");
  const union = schema.oneOf ?? schema.anyOf;
  if (union) return [...new Set(union.map(typeOf))].join(" | ");
  if (schema.allOf) return schema.allOf.map(typeOf).join(" & ");
  const types = Array.isArray(schema.type)
    ? schema.type
    : [schema.type ?? (schema.properties ? "object" : "any")];
  return types
    .map((type) => {
      if (type === "array") return `${typeOf(schema.items)}[]`;
      if (type === "object" && typeof schema.additionalProperties === "object")
        return `{ [name]: ${typeOf(schema.additionalProperties)} }`;
      return schema.format && type !== "null" ? `${type} (${schema.format})` : type;
    })
    .join(" | ");
}

/** What else is demanded of a value, in words. */
export function boundsOf(schema: Schema | undefined): string {
  if (!schema) return "";
  const bounds: string[] = [];
  if (schema.minimum !== undefined) bounds.push(`at least ${schema.minimum}`);
  if (schema.maximum !== undefined) bounds.push(`at most ${schema.maximum}`);
  if (schema.minLength !== undefined) bounds.push(`at least ${schema.minLength} characters`);
  if (schema.maxLength !== undefined) bounds.push(`at most ${schema.maxLength} characters`);
  if (schema.pattern !== undefined) bounds.push(`matches ${schema.pattern}`);
  if (schema.default !== undefined) bounds.push(`default ${JSON.stringify(schema.default)}`);
  return bounds.join(", ");
}

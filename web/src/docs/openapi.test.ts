import { expect, test } from "vitest";
import { boundsOf, operationsByTag, typeOf } from "./openapi";

test("a type is one readable line", () => {
  expect(typeOf({ type: "string", format: "uuid" })).toBe("string (uuid)");
  expect(typeOf({ type: ["string", "null"] })).toBe("string | null");
  expect(typeOf({ type: "array", items: { $ref: "#/components/schemas/Room" } })).toBe("Room[]");
  expect(typeOf({ oneOf: [{ type: "null" }, { $ref: "#/components/schemas/Room" }] })).toBe("null | Room");
  expect(typeOf({ type: "string", enum: ["public", "private"] })).toBe('"public" | "private"');
  expect(typeOf({ type: "object", additionalProperties: { type: "string" } })).toBe("{ [name]: string }");
});

test("bounds are said in words", () => {
  expect(boundsOf({ type: "integer", minimum: 1, maximum: 200, default: 50 })).toBe(
    "at least 1, at most 200, default 50",
  );
});

test("operations are grouped by tag and get the parameters of their path", () => {
  const groups = operationsByTag({
    info: { title: "t", version: "1" },
    tags: [{ name: "rooms" }, { name: "unused" }],
    paths: {
      "/v1/rooms/{id}": {
        parameters: [{ name: "id", in: "path", required: true }],
        get: { tags: ["rooms"], responses: {} },
        delete: { tags: ["rooms"] },
      },
      "/healthz": { get: {} },
    },
  });
  expect([...groups.keys()]).toEqual(["rooms", "other"]);
  expect(groups.get("rooms")?.map((o) => [o.method, o.id, o.operation.parameters?.length])).toEqual([
    ["get", "get-v1-rooms-id", 1],
    ["delete", "delete-v1-rooms-id", 1],
  ]);
});

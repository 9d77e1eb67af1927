import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import {
  boundsOf,
  type Description,
  type Listed,
  operationsByTag,
  type Parameter,
  type Schema,
  schemaName,
  typeOf,
} from "./openapi";

/** The server's own description of its HTTP API, made readable. */
export function Docs() {
  const api = useSignal<Description | null>(null);
  const failed = useSignal("");
  const filter = useSignal("");
  useEffect(() => {
    fetch("/openapi.json")
      .then((r) => (r.ok ? r.json() : Promise.reject(new Error(`The server answered ${r.status}.`))))
      .then((json) => {
        api.value = json;
        document.title = `${json.info?.title ?? "Darda"} API`;
      })
      .catch((e) => {
        failed.value = e instanceof Error ? e.message : String(e);
      });
  }, []);
  useEffect(() => {
    if (api.value && location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
  }, [api.value]);

  if (failed.value)
    return (
      <div class="docs-note" role="alert">
        The description cannot be read. {failed.value} <a href="/docs">Try again</a>
      </div>
    );
  if (!api.value)
    return (
      <div class="docs-note" role="status">
        Reading the description…
      </div>
    );

  const wanted = filter.value.trim().toLowerCase();
  const groups = [...operationsByTag(api.value)].flatMap(([tag, list]) => {
    const shown = list.filter((o) =>
      `${o.method} ${o.path} ${o.operation.summary ?? ""} ${tag}`.toLowerCase().includes(wanted),
    );
    return shown.length > 0 ? [[tag, shown] as const] : [];
  });
  const schemas = Object.entries(api.value.components?.schemas ?? {});
  return (
    <div class="docs">
      <nav class="docs-nav" aria-label="Operations">
        <a class="docs-brand" href="/">
          <img src="/favicon.svg" alt="" width="26" height="26" /> Darda
        </a>
        <label class="hidden" for="filter">
          Filter operations
        </label>
        <input
          id="filter"
          type="search"
          placeholder="Filter operations"
          value={filter.value}
          onInput={(e) => (filter.value = e.currentTarget.value)}
        />
        {groups.map(([tag, list]) => (
          <section key={tag}>
            <h2>{tag}</h2>
            <ul>
              {list.map((o) => (
                <li key={o.id}>
                  <a href={`#${o.id}`}>
                    <Method name={o.method} />
                    <span>{o.path}</span>
                  </a>
                </li>
              ))}
            </ul>
          </section>
        ))}
        {schemas.length > 0 && (
          <section>
            <h2>Schemas</h2>
            <ul>
              {schemas.map(([name]) => (
                <li key={name}>
                  <a href={`#schema-${name}`}>{name}</a>
                </li>
              ))}
            </ul>
          </section>
        )}
      </nav>
      <main class="docs-main">
        <header>
          <h1>{api.value.info.title}</h1>
          <p class="muted">
            Version {api.value.info.version} · <a href="/openapi.json">openapi.json</a>
          </p>
          <Prose text={api.value.info.description} />
        </header>
        {groups.map(([tag, list]) => (
          <section key={tag} aria-label={tag}>
            <h2 class="docs-tag">{tag}</h2>
            <Prose text={api.value?.tags?.find((t) => t.name === tag)?.description} />
            {list.map((o) => (
              <OperationCard key={o.id} listed={o} />
            ))}
          </section>
        ))}
        {schemas.length > 0 && <h2 class="docs-tag">Schemas</h2>}
        {schemas.map(([name, schema]) => (
          <section key={name} class="card" id={`schema-${name}`}>
            <h3>{name}</h3>
            <Prose text={schema.description} />
            <Shape schema={schema} />
          </section>
        ))}
      </main>
    </div>
  );
}

function OperationCard({ listed }: { listed: Listed }) {
  const { operation, method, path, id } = listed;
  const body = operation.requestBody;
  return (
    <section class="card" id={id} aria-label={`${method.toUpperCase()} ${path}`}>
      <h3 class="operation">
        <Method name={method} />
        <code>{path}</code>
      </h3>
      {operation.summary && <p class="summary">{inline(operation.summary)}</p>}
      <Prose text={operation.description} />
      {(operation.parameters?.length ?? 0) > 0 && <Parameters list={operation.parameters ?? []} />}
      {body && (
        <>
          <h4>Body{body.required ? "" : " (optional)"}</h4>
          <Prose text={body.description} />
          <Content content={body.content} />
        </>
      )}
      <h4>Answers</h4>
      <ul class="answers">
        {Object.entries(operation.responses ?? {}).map(([status, answer]) => (
          <li key={status}>
            <span class={`code code-${status[0]}`}>{status}</span>
            <div>
              {inline(answer.description ?? "")}
              <Content content={answer.content} />
            </div>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Parameters({ list }: { list: Parameter[] }) {
  return (
    <div class="table">
      <table>
        <caption>Parameters</caption>
        <thead>
          <tr>
            <th scope="col">Name</th>
            <th scope="col">Type</th>
            <th scope="col">Meaning</th>
          </tr>
        </thead>
        <tbody>
          {list.map((p) => (
            <tr key={`${p.in} ${p.name}`}>
              <td>
                <code>{p.name}</code>
                <small>
                  {p.in}
                  {p.required ? ", required" : ""}
                </small>
              </td>
              <td>
                <Type schema={p.schema} />
              </td>
              <td>{inline([p.description, boundsOf(p.schema)].filter(Boolean).join(" · "))}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Content({ content }: { content?: Record<string, { schema?: Schema }> | undefined }) {
  return (
    <>
      {Object.entries(content ?? {}).map(([type, { schema }]) => (
        <div key={type} class="content">
          <small>{type}</small> <Type schema={schema} />
          {schema && !schema.$ref && <Shape schema={schema} />}
        </div>
      ))}
    </>
  );
}

/** A type whose named schemas are links. */
function Type({ schema }: { schema?: Schema | undefined }) {
  if (!schema) return null;
  if (schema.$ref) return <a href={`#schema-${schemaName(schema.$ref)}`}>{schemaName(schema.$ref)}</a>;
  if (schema.type === "array" && schema.items?.$ref)
    return (
      <>
        <Type schema={schema.items} />
        []
      </>
    );
  const union = schema.oneOf ?? schema.anyOf ?? schema.allOf;
  if (union)
    return (
      <>
        {union.map((s, i) => (
          <span key={i}>
            {i > 0 && (schema.allOf ? " & " : " | ")}
            <Type schema={s} />
          </span>
        ))}
      </>
    );
  return <code>{typeOf(schema)}</code>;
}

/** The fields of an object, or the alternatives of a union. */
function Shape({ schema }: { schema: Schema }) {
  const parts = schema.oneOf ?? schema.anyOf ?? schema.allOf;
  if (parts)
    return (
      <ul class="parts">
        {parts.map((part, i) => (
          <li key={i}>
            <Type schema={part} />
            {part.description && <span class="muted"> {part.description}</span>}
            {!part.$ref && <Shape schema={part} />}
          </li>
        ))}
      </ul>
    );
  const fields = Object.entries(schema.properties ?? {});
  if (fields.length === 0) return schema.properties || schema.$ref ? null : <Plain schema={schema} />;
  return (
    <div class="table">
      <table>
        <caption class="hidden">Fields</caption>
        <thead>
          <tr>
            <th scope="col">Field</th>
            <th scope="col">Type</th>
            <th scope="col">Meaning</th>
          </tr>
        </thead>
        <tbody>
          {fields.map(([name, field]) => (
            <tr key={name}>
              <td>
                <code>{name}</code>
                {schema.required?.includes(name) ? null : <small>optional</small>}
              </td>
              <td>
                <Type schema={field} />
              </td>
              <td>{inline([field.description, boundsOf(field)].filter(Boolean).join(" · "))}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Plain({ schema }: { schema: Schema }) {
  const bounds = boundsOf(schema);
  return (
    <p>
      <code>{typeOf(schema)}</code> {bounds && <span class="muted">{bounds}</span>}
    </p>
  );
}

function Method({ name }: { name: string }) {
  return <span class={`method method-${name}`}>{name.toUpperCase()}</span>;
}

function Prose({ text }: { text?: string | undefined }) {
  if (!text) return null;
  return (
    <>
      {text.split(/\n\s*\n/).map((paragraph, i) => (
        <p key={i} class="prose">
          {inline(paragraph)}
        </p>
      ))}
    </>
  );
}

/** Text in which pieces between backticks are code. */
function inline(text: string) {
  return text
    .split(/(`[^`]+`)/)
    .map((piece, i) => (i % 2 ? <code key={`${i}`}>{piece.slice(1, -1)}</code> : piece));
}

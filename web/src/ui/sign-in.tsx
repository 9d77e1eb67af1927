import { useEffect, useRef, useState } from "preact/hooks";
import { userIdOf } from "../text/people";
import { Avatar } from "./avatar";

/** Open mode: a name is all it takes. */
export function SignIn({ last, onName }: { last: string; onName: (user: string) => void }) {
  const [typed, setTyped] = useState(last);
  const [refused, setRefused] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  const user = userIdOf(typed);
  useEffect(() => input.current?.focus(), []);

  const submit = (e: Event) => {
    e.preventDefault();
    if (user) return onName(user);
    setRefused(true);
    input.current?.focus();
  };
  return (
    <main class="sign-in">
      <form class="sign-in-card" onSubmit={submit} noValidate>
        <img class="logo" src="/favicon.svg" alt="" width="44" height="44" />
        <h1>Welcome to Darda</h1>
        <p class="muted">Choose the name that others will see. No password is needed on this server.</p>
        <label for="name">Your name</label>
        <div class="sign-in-name">
          <input
            id="name"
            ref={input}
            value={typed}
            onInput={(e) => {
              setTyped(e.currentTarget.value);
              setRefused(false);
            }}
            autocomplete="username"
            autocapitalize="none"
            spellcheck={false}
            maxLength={64}
            placeholder="alice"
            aria-describedby="name-hint"
            aria-invalid={refused}
          />
          <Avatar name={user ?? "?"} />
        </div>
        <p id="name-hint" class={refused ? "hint hint-bad" : "hint"} role={refused ? "alert" : undefined}>
          {refused
            ? "Please use letters a to z, digits, dots, dashes or underscores; start with a letter or digit."
            : user && user !== typed.trim()
              ? `You will be “${user}”.`
              : "Lower-case letters, digits, dots, dashes and underscores."}
        </p>
        <button class="button button-main" type="submit">
          Start chatting
        </button>
      </form>
    </main>
  );
}

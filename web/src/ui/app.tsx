import { signal } from "@preact/signals";
import { Session } from "../app/session";
import { local, tab } from "../net/storage";
import { Chat } from "./chat";
import { SignIn } from "./sign-in";

const NAME = "darda:user";

/** This tab's person: two tabs may be two people, and a new tab starts as the last one. */
const session = signal<Session | null>(remembered());

export function App() {
  if (!session.value) return <SignIn last={local.get(NAME) ?? ""} onName={signIn} />;
  return <Chat key={session.value.user} session={session.value} onSignOut={signOut} />;
}

function remembered(): Session | null {
  const user = tab.get(NAME) ?? local.get(NAME);
  if (!user) return null;
  tab.set(NAME, user);
  return new Session(user);
}

function signIn(user: string): void {
  tab.set(NAME, user);
  local.set(NAME, user);
  session.value = new Session(user);
}

function signOut(): void {
  session.value?.stop();
  tab.remove(NAME);
  local.remove(NAME);
  location.hash = "";
  session.value = null;
}

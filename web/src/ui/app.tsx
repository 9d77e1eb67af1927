import { signal } from "@preact/signals";
import { Session } from "../app/session";
import { Chat } from "./chat";
import { SignIn } from "./sign-in";

const NAME = "darda:user";

/** This tab's person: two tabs may be two people, and a new tab starts as the last one. */
const session = signal<Session | null>(remembered());

export function App() {
  if (!session.value) return <SignIn last={localStorage.getItem(NAME) ?? ""} onName={signIn} />;
  return <Chat key={session.value.user} session={session.value} onSignOut={signOut} />;
}

function remembered(): Session | null {
  const user = sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME);
  if (!user) return null;
  sessionStorage.setItem(NAME, user);
  return new Session(user);
}

function signIn(user: string): void {
  sessionStorage.setItem(NAME, user);
  localStorage.setItem(NAME, user);
  session.value = new Session(user);
}

function signOut(): void {
  session.value?.stop();
  sessionStorage.removeItem(NAME);
  localStorage.removeItem(NAME);
  location.hash = "";
  session.value = null;
}

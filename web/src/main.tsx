import { render } from "preact";
import { App } from "./ui/app";
import "./ui/base.css";
import "./ui/chat.css";

const root = document.getElementById("app");
if (root) render(<App />, root);

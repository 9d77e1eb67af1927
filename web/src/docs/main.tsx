import { render } from "preact";
import "../ui/base.css";
import "./docs.css";
import { Docs } from "./docs";

const root = document.getElementById("docs");
if (root) render(<Docs />, root);

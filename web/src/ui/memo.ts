import { Component, type ComponentType, createElement } from "preact";

/** Draws a component again only when one of its properties is another than before. */
export function memo<P extends object>(inner: (props: P) => preact.JSX.Element | null): ComponentType<P> {
  return class Memo extends Component<P> {
    override shouldComponentUpdate(next: P): boolean {
      const now = this.props as Record<string, unknown>;
      const then = next as Record<string, unknown>;
      return Object.keys(then).some((name) => name !== "children" && now[name] !== then[name]);
    }
    override render() {
      return createElement(inner as ComponentType<P>, this.props as P);
    }
  };
}

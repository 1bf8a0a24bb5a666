"""Networks drawn: what a drawing says, where its boxes lie, and how it is written as SVG, Mermaid and DOT."""

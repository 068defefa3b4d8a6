"""The bundled example table of business news, and what `ia3 demo` shows with it."""

"""The panel: one file per section. Reads and writes the typed state, asks the logic to act, shows what comes back."""

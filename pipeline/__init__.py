"""The mill: command line, config, plan and engine. It knows no filtering rule."""

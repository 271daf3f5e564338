"""Service plugins: found, started, watched and stopped; modelbox/plugin.py is what they see."""

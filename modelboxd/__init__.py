from modelboxd import compiled

compiled.use()

"""Trigger families in one domain (`saeaudit.organisms.questions`): what stands where the behaviour is decided."""

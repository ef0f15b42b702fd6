// vitest asks its workers for colours where it has some itself. What the command line and its child processes say is compared as text; an empty
// FORCE_COLOR asks for colours too, so it has to go.
delete process.env["FORCE_COLOR"];

/* What the test programs have in common. They are C99 and C++ at once. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <oarlock.h>

static oar_client *client;
static oar_space *space;

static void check(int line, const char *what, long is, long should)
{
    if (is != should) {
        oar_error error = OAR_ERROR_INIT;
        oar_errinfo(client, &error);
        fprintf(stderr, "line %d: %s is %ld, not %ld; last error: %s\n", line, what, is, should, error.text);
        abort();
    }
}

#define IS(value, should) check(__LINE__, #value, (long)(value), (long)(should))

static inline void open_all(void)
{
    oar_connect_opts how = OAR_CONNECT_OPTS_INIT;

    how.flags = getenv("NO_SHARED_MEMORY") != NULL ? OAR_NO_SHARED_MEMORY : 0;
    IS(oar_connect(NULL, &how, &client), 0);
    IS(oar_space_open(client, "default", 0, &space), 0);
}

static inline void close_all(void)
{
    oar_space_close(space);
    oar_close(client);
    client = NULL;
}

static inline oar_lock *take(const char *name, int mode, uint32_t flags)
{
    oar_lock *lock = NULL;
    oar_opts opts = OAR_OPTS_INIT;
    opts.flags = flags;
    opts.timeout_ms = flags & (OAR_NOQUEUE | OAR_LOCAL) ? 0 : 20000;
    IS(oar_lock_wait(space, name, strlen(name), mode, &opts, &lock), 0);
    return lock;
}

#endif

/* A counter that the whole cluster shares, in the value block of a lock: each run adds its argument, or 1. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <oarlock.h>

static int count(oar_space *space, uint64_t add)
{
    oar_opts opts = OAR_OPTS_INIT;
    oar_value value = OAR_VALUE_INIT;
    oar_lock *lock = NULL;
    uint64_t number = 0;
    int rc;

    opts.flags = OAR_VALBLK;
    opts.timeout_ms = 10000;
    rc = oar_lock_wait(space, "counter", 7, OAR_EX, &opts, &lock);
    if (rc != 0) {
        return rc;
    }
    rc = oar_value_get(lock, &value);
    if (rc == 0 && !value.valid) {
        fprintf(stderr, "a writer died, and its number may not be believed\n");
        rc = oar_value_invalidate(lock);
    } else if (rc == 0) {
        memcpy(&number, value.bytes, sizeof number);
        number += add;
        rc = oar_value_set(lock, &number, sizeof number);
        printf("%" PRIu64 "\n", number);
    }
    if (rc == 0) {
        /* What was set is written here. */
        rc = oar_unlock_wait(lock);
    }
    oar_lock_free(lock);
    return rc;
}

int main(int argc, char **argv)
{
    oar_client *client = NULL;
    oar_space *space = NULL;
    int rc;

    rc = oar_connect(NULL, NULL, &client);
    if (rc == 0) {
        rc = oar_space_open(client, "default", 0, &space);
    }
    if (rc == 0) {
        rc = count(space, argc > 1 ? strtoull(argv[1], NULL, 10) : 1);
    }
    if (rc != 0) {
        fprintf(stderr, "%s\n", oar_strerror(rc));
    }
    oar_space_close(space);
    oar_close(client);
    return rc == 0 ? 0 : 1;
}

/* A first lock: connect, wait for an exclusive lock for ten seconds at most, show its fence, give it back.
 *
 *     cc first_lock.c $(pkg-config --cflags --libs oarlock) -o first_lock
 */
#include <inttypes.h>
#include <stdio.h>

#include <oarlock.h>

int main(void)
{
    oar_client *client = NULL;
    oar_space *space = NULL;
    oar_lock *lock = NULL;
    oar_error error = OAR_ERROR_INIT;
    oar_connect_opts how = OAR_CONNECT_OPTS_INIT;
    oar_opts opts = OAR_OPTS_INIT;
    int rc;

    how.label = "first lock";
    how.error = &error;
    rc = oar_connect(NULL, &how, &client);
    if (rc != 0) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    opts.timeout_ms = 10000;
    opts.flags = OAR_FRESH;
    rc = oar_space_open(client, "default", 0, &space);
    if (rc == 0) {
        rc = oar_lock_wait(space, "greeting", 8, OAR_EX, &opts, &lock);
    }
    if (rc == 0) {
        printf("%s holds \"greeting\" with fence %" PRIu64 "\n", oar_node(client), oar_lock_token(lock).hi);
        rc = oar_unlock_wait(lock);
    }
    if (rc != 0) {
        oar_errinfo(client, &error);
        fprintf(stderr, "%s\n", error.text);
    }
    oar_lock_free(lock);
    oar_space_close(space);
    oar_close(client);
    return rc == 0 ? 0 : 1;
}

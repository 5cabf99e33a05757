/* A plain loop over poll(2): only the work that every poll object must do. */
#include <poll.h>
#include <stdlib.h>

typedef struct {
    int count;
    int next; /* the next entry to change */
    struct pollfd *entries;
    struct pollfd *found;
} c_loop;

void c_loop_free(c_loop *loop)
{
    free(loop->entries);
    free(loop->found);
    free(loop);
}

c_loop *c_loop_new(const int *fds, const short *masks, int count)
{
    c_loop *loop = calloc(1, sizeof *loop);
    int i;

    if (loop == NULL)
        return NULL;
    loop->count = count;
    loop->entries = calloc((size_t)count, sizeof *loop->entries);
    loop->found = calloc((size_t)count, sizeof *loop->found);
    if (loop->entries == NULL || loop->found == NULL) {
        c_loop_free(loop);
        return NULL;
    }
    for (i = 0; i < count; i++) {
        loop->entries[i].fd = fds[i];
        loop->entries[i].events = masks[i];
    }
    return loop;
}

/* Repeats: changes some masks, polls, and copies the ready entries. Returns the number of ready
 * entries in the last repetition. */
int c_loop_run(c_loop *loop, int changed, int timeout, long times)
{
    int ready = 0;

    while (times-- > 0) {
        int i, found = 0;

        for (i = 0; i < changed; i++) {
            loop->entries[loop->next].events ^= POLLPRI;
            if (++loop->next == loop->count)
                loop->next = 0;
        }
        ready = poll(loop->entries, (nfds_t)loop->count, timeout);
        for (i = 0; found < ready; i++)
            if (loop->entries[i].revents != 0)
                loop->found[found++] = loop->entries[i];
    }
    return ready;
}

/* transfer.c: see transfer.h.
 *
 * The surprising rule: a server may answer a request for the rest of a file with all of it, so the
 * first byte of every answer decides, by its status, whether the file goes on or starts again. */
#include "transfer.h"

#ifdef MOJI_CURL
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

enum { ATTEMPTS = 5, STALL_SECONDS = 60, MAX_TEXT = 16 << 20 };

typedef struct {
    CURL *curl;
    const char *url, *path, *token;
    GCancellable *cancel;
    MojiTransferProgress progress;
    gpointer user_data;
    int file; /* or -1: to text */
    GString *text;
    gint64 bytes;     /* of the whole, or -1 */
    gint64 at;        /* bytes that are there */
    gint64 range_at;  /* where the server says its answer begins; -1: it does not say */
    char *etag;       /* of the answer */
    gboolean started; /* the first byte of this answer was seen */
    gboolean too_long;
    char reason[CURL_ERROR_SIZE];
} Transfer;

static size_t on_header(char *line, size_t size, size_t n, void *data)
{
    Transfer *t = data;
    g_autofree char *text = g_strstrip(g_strndup(line, size * n));
    if (g_str_has_prefix(text, "HTTP/")) { /* of the next answer, after a redirection */
        t->range_at = -1;
        g_clear_pointer(&t->etag, g_free);
    } else if (!g_ascii_strncasecmp(text, "content-range: bytes ", 21)) {
        t->range_at = g_ascii_strtoll(text + 21, NULL, 10);
    } else if (!g_ascii_strncasecmp(text, "etag:", 5)) {
        g_free(t->etag);
        t->etag = g_strstrip(g_strdup(text + 5));
    }
    return size * n;
}

/* Only a strong one says that the bytes are the same. */
static gboolean write_etag(const Transfer *t)
{
    g_autofree char *path = g_strconcat(t->path, ".etag", NULL);
    if (!t->etag || g_str_has_prefix(t->etag, "W/"))
        return g_remove(path) == 0 || errno == ENOENT;
    return g_file_set_contents(path, t->etag, -1, NULL);
}

static gboolean start_answer(Transfer *t)
{
    long status = 0;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    t->started = TRUE;
    if (status == 206 && t->range_at == t->at)
        return TRUE;
    t->at = 0;
    return ftruncate(t->file, 0) == 0 && lseek(t->file, 0, SEEK_SET) == 0 && write_etag(t);
}

static size_t on_data(char *data, size_t size, size_t n, void *user_data)
{
    Transfer *t = user_data;
    gsize bytes = size * n;
    if (t->file < 0) {
        t->too_long = t->text->len + bytes > MAX_TEXT;
        if (!t->too_long)
            g_string_append_len(t->text, data, bytes);
        return t->too_long ? 0 : bytes;
    }
    if (!t->started && !start_answer(t))
        return 0;
    t->too_long = t->bytes >= 0 && t->at + (gint64)bytes > t->bytes;
    if (t->too_long)
        return 0;
    for (gsize done = 0; done < bytes;) {
        gssize written = write(t->file, data + done, bytes - done);
        if (written < 0 && errno != EINTR)
            return 0;
        done += MAX(written, 0);
    }
    t->at += bytes;
    if (t->progress)
        t->progress(t->at, t->user_data);
    return bytes;
}

static int on_progress(void *data, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    (void)a, (void)b, (void)c, (void)d;
    return g_cancellable_is_cancelled(((Transfer *)data)->cancel);
}

static void open_curl(Transfer *t)
{
    static gsize once;
    if (g_once_init_enter(&once)) {
        curl_global_init(CURL_GLOBAL_DEFAULT);
        g_once_init_leave(&once, 1);
    }
    CURL *c = t->curl = curl_easy_init();
    curl_easy_setopt(c, CURLOPT_URL, t->url);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "moji");
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, 10L);
    curl_easy_setopt(c, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, 30L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)STALL_SECONDS);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, t);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, t->reason);
    if (t->token) { /* unlike a header of ours, libcurl keeps it from other hosts and ports */
        curl_easy_setopt(c, CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
        curl_easy_setopt(c, CURLOPT_XOAUTH2_BEARER, t->token);
    }
}

static gboolean fail(Transfer *t, CURLcode code, GError **error)
{
    long status = 0;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    if (g_cancellable_is_cancelled(t->cancel))
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_CANCELLED, "Cancelled");
    else if (t->too_long)
        moji_error_file(error, t->url, "is longer than the server said");
    else if (code == CURLE_HTTP_RETURNED_ERROR)
        moji_error_file(error, t->url, "the server answers %ld%s", status,
                        status == 404                    ? ": there is no such thing"
                        : status != 401 && status != 403 ? ""
                        : t->token ? ": your token gives no access to it; ask for it on its page"
                                   : ": there is no such thing, or it wants to know who asks; ask "
                                     "for access on its page, then give your token by --token or "
                                     "HF_TOKEN");
    else if (code == CURLE_WRITE_ERROR)
        moji_error_file(error, t->path ? t->path : t->url, "cannot be written: %s",
                        g_strerror(errno));
    else
        moji_error_file(error, t->url, "cannot be fetched: %s",
                        *t->reason ? t->reason : curl_easy_strerror(code));
    return FALSE;
}

/* One request, for the rest if there is a beginning. */
static CURLcode request(Transfer *t)
{
    g_autofree char *tag_path = g_strconcat(t->path, ".etag", NULL);
    g_autofree char *tag = NULL, *range = NULL, *condition = NULL;
    struct curl_slist *headers = NULL;
    if (!g_file_get_contents(tag_path, &tag, NULL, NULL))
        t->at = 0; /* a beginning of what, nobody knows */
    t->started = FALSE;
    t->range_at = -1;
    if (t->at > 0) {
        range = g_strdup_printf("%" G_GINT64_FORMAT "-", t->at);
        condition = g_strconcat("If-Range: ", tag, NULL);
        headers = curl_slist_append(NULL, condition);
    }
    curl_easy_setopt(t->curl, CURLOPT_RANGE, range);
    curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, headers);
    CURLcode code = curl_easy_perform(t->curl);
    if (code == CURLE_OK && !t->started && t->at == 0)
        start_answer(t); /* an empty file */
    curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(headers);
    return code;
}

/* What another attempt may cure. */
static gboolean is_passing(const Transfer *t, CURLcode code, gboolean *from_start)
{
    long status = 0;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    *from_start = status == 416;
    return !t->too_long &&
           (code == CURLE_PARTIAL_FILE || code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR ||
            code == CURLE_GOT_NOTHING || code == CURLE_OPERATION_TIMEDOUT ||
            code == CURLE_COULDNT_CONNECT || code == CURLE_HTTP2_STREAM ||
            (code == CURLE_HTTP_RETURNED_ERROR && (status == 416 || status >= 500)));
}

static gboolean attempt(Transfer *t, GError **error)
{
    CURLcode code = CURLE_OK;
    gint64 most = t->at;
    for (int left = ATTEMPTS; left > 0; left--) {
        gboolean from_start;
        lseek(t->file, t->at, SEEK_SET);
        code = request(t);
        if (code == CURLE_OK && (t->bytes < 0 || t->at == t->bytes))
            return TRUE;
        if (code == CURLE_OK)
            code = CURLE_PARTIAL_FILE;
        if (g_cancellable_is_cancelled(t->cancel) || !is_passing(t, code, &from_start))
            break;
        if (t->at > most) { /* it goes on, if with breaks */
            most = t->at;
            left = ATTEMPTS;
        } else {
            g_usleep(G_USEC_PER_SEC / 4);
        }
        if (from_start)
            t->at = 0;
    }
    return fail(t, code, error);
}

gboolean moji_transfer(const char *url, const char *path, gint64 bytes, const char *token,
                       MojiTransferProgress progress, gpointer user_data, GCancellable *cancel,
                       GError **error)
{
    Transfer t = {.url = url,
                  .path = path,
                  .bytes = bytes,
                  .token = token,
                  .cancel = cancel,
                  .progress = progress,
                  .user_data = user_data};
    t.file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (t.file < 0) {
        moji_error_file(error, path, "cannot be written: %s", g_strerror(errno));
        return FALSE;
    }
    t.at = lseek(t.file, 0, SEEK_END);
    if (bytes >= 0 && t.at > bytes)
        t.at = 0;
    gboolean ok = bytes >= 0 && t.at == bytes && bytes > 0;
    if (!ok) {
        open_curl(&t);
        ok = attempt(&t, error);
        curl_easy_cleanup(t.curl);
    }
    if (ok && fsync(t.file)) {
        moji_error_file(error, path, "cannot be written: %s", g_strerror(errno));
        ok = FALSE;
    }
    close(t.file);
    g_free(t.etag);
    return ok;
}

char *moji_transfer_text(const char *url, const char *token, GCancellable *cancel, GError **error)
{
    Transfer t = {.url = url, .bytes = -1, .token = token, .cancel = cancel, .file = -1};
    t.text = g_string_new(NULL);
    open_curl(&t);
    CURLcode code = curl_easy_perform(t.curl);
    gboolean ok = code == CURLE_OK || fail(&t, code, error);
    curl_easy_cleanup(t.curl);
    g_free(t.etag);
    return g_string_free(t.text, !ok);
}

#else

static gboolean refuse(const char *url, GError **error)
{
    moji_error_file(error, url, "cannot be fetched: this moji was built without libcurl");
    return FALSE;
}

gboolean moji_transfer(const char *url, const char *path, gint64 bytes, const char *token,
                       MojiTransferProgress progress, gpointer user_data, GCancellable *cancel,
                       GError **error)
{
    (void)path, (void)bytes, (void)token, (void)progress, (void)user_data, (void)cancel;
    return refuse(url, error);
}

char *moji_transfer_text(const char *url, const char *token, GCancellable *cancel, GError **error)
{
    (void)token, (void)cancel;
    refuse(url, error);
    return NULL;
}
#endif

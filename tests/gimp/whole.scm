; whole.scm: inside a GIMP with its windows. window.sh works the keyboard; the two tell each other how far
; they are by files.

(define (tell word)
  (close-output-port (open-output-file (string-append work-folder "/" word))))

; thunk must come true within a minute; there is no going on without it.
(define (wait-for name thunk)
  (let loop ((tries 300))
    (cond ((thunk) (line "ok " name))
          ((= tries 0) (line "FAIL " name ": not within a minute") (gimp-quit 1))
          (else (usleep 200000) (loop (- tries 1))))))

(define (layers image)
  (car (gimp-image-get-layers image)))

(define image (new-image 800 600 RGB))
(gimp-image-clean-all image)
(define shown (car (gimp-display-new image)))
(tell "ready")

(wait-for "menu-makes-a-layer" (lambda () (= (layers image) 2)))
(tell "made")
(wait-for "undo-is-one-step" (lambda () (= (layers image) 1)))
(tell "undone")
(wait-for "repeat-makes-another" (lambda () (= (layers image) 2)))
(tell "repeated")

; The image is closed while the window draws for it.
(wait-for "window-draws-again" (lambda () (file-exists? (string-append work-folder "/drawing"))))
(gimp-display-delete shown)
(wait-for "closed-image-gives-a-new-one" (lambda () (= (car (gimp-image-list)) 1)))
(let ((new (aref (cadr (gimp-image-list)) 0)))
  (check "new-image-has-the-emoji" (list (car (gimp-image-width new)) (layers new)) '(64 1)))
(tell "closed")
(wait-for "window-closes" (lambda () (file-exists? (string-append work-folder "/all-done"))))
(line "end")
(close-output-port results)
